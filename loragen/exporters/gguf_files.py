"""GGUF files: opened with errors of one line, written whole or not at all, and never in place of what is none."""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loragen.adapters.adapter import Site
from loragen.base_store.gguf_header import MAGIC, gguf_package, read_header
from loragen.errors import AdapterError, ConfigError, cut, named
from loragen.files import atomic_file
from loragen.paths import is_file, places, refuse_place

SUFFIX = ".gguf"


def refuse_out(out: Path, *, force: bool, read: Path | None) -> None:
    """Keep what is there from being written over.

    Args:
        out: the file to be written.
        force: replace a GGUF file.
        read: a file that the work itself reads.

    Raises:
        ConfigError: the name does not end in ``.gguf``, or something stands there that may not be replaced.
    """
    if out.suffix.lower() != SUFFIX:
        raise ConfigError(f"--out {cut(out)} does not end in {SUFFIX}; name a file of this kind.")
    refuse_place(out)
    if read is not None and set(places(out)[:1]) & set(places(read)[:1]):
        raise ConfigError(f"{cut(out)} is the model that is read; give another --out.")
    if not out.exists():
        return
    if not is_file(out) or not _is_gguf(out):
        raise ConfigError(f"{cut(out)} is there and is no GGUF file; give another --out, or move it away.")
    if not force:
        raise ConfigError(f"{cut(out)} exists already; give another --out, or --force to replace it.")


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == MAGIC


def opened_gguf(path: Path, *, option: str = "--base-gguf") -> Any:
    """A ``gguf.GGUFReader`` of a whole model in one little-endian file.

    Raises:
        ConfigError: there is no such file, or it is one part of several; or `read_header` refuses it.
        MissingExtraError: gguf is not installed.
    """
    gguf = gguf_package()
    if not is_file(path):
        raise ConfigError(f"There is no file {cut(path)}; give the GGUF file of the base with {option}.")
    read_header(path)  # within bounds, before a library opens the file
    try:
        reader = gguf.GGUFReader(path)
        reader.names = {tensor.name: tensor for tensor in reader.tensors}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, MemoryError, struct.error) as error:
        raise ConfigError(f"{cut(path)} is damaged ({cut(error, 80)}); fetch it again.") from error
    if (value_of(reader, "split.count") or 1) > 1:
        raise ConfigError(f"{cut(path)} is one part of several; join them with llama.cpp's llama-gguf-split --merge.")
    return reader


def value_of(reader: Any, key: str) -> Any:
    """A value of a file's metadata; `None` where it has none."""
    field = reader.fields.get(key)
    return None if field is None else field.contents()


def check_model(reader: Any, path: Path, arch: str) -> None:
    """Refuse a file that is no model of an architecture.

    Raises:
        ConfigError: it is an adapter, or a model of another architecture.
    """
    if value_of(reader, "general.type") not in (None, "model"):
        raise ConfigError(f"{cut(path)} is of the type {named(str(value_of(reader, 'general.type')))}, no model.")
    if (met := value_of(reader, "general.architecture")) != arch:
        raise ConfigError(
            f"{cut(path)} is a model of the architecture {named(str(met))}, and that of the base is {arch}; give the "
            "GGUF file of the base with --base-gguf."
        )


def check_tensor(tensor: Any, path: Path, name: str, site: Site) -> None:
    """Refuse a file that lacks the tensor of a site, or has it in another shape.

    Raises:
        AdapterError: it does; ``tensor`` is what the file has, or `None`.
    """
    wanted = (site.out_features, site.in_features)
    if tensor is None or shape_of(tensor) != wanted:
        what = "no such tensor" if tensor is None else f"the shape {shape_of(tensor)} there"
        raise AdapterError(
            f"{site.name!r} is {name} of the shape {wanted} in llama.cpp, but {cut(path)} has {what}; give the GGUF "
            "file of the base that the adapter was made for."
        )


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Shape of a tensor as torch has it: (out, in)."""
    return tuple(int(size) for size in reversed(tensor.shape))


def dequantised(tensor: Any) -> Tensor:
    """A tensor of a file in float32.

    Raises:
        ConfigError: gguf cannot read its type.
    """
    gguf = gguf_package()
    try:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise ConfigError(
            f"{tensor.name} is kept as {tensor.tensor_type.name}, which the package gguf cannot read; give the base in "
            "another type, such as F16 or Q8_0, with --base-gguf."
        ) from None
    return torch.from_numpy(np.array(values, dtype=np.float32))


@contextmanager
def new_gguf(out: Path, arch: str, facts: Mapping[str, tuple[Any, ...]]) -> Iterator[Any]:
    """Yield a ``gguf.GGUFWriter`` whose file takes the place of ``out`` when the block succeeds.

    Args:
        out: the file.
        arch: llama.cpp's name of the architecture.
        facts: key → value, its type, and that of its entries where it is a list.
    """
    gguf = gguf_package()
    with atomic_file(out) as path:
        writer = gguf.GGUFWriter(path, arch)
        try:
            for key, (value, *types) in facts.items():
                writer.add_key_value(key, value, *types)
            yield writer
        finally:
            writer.close()
