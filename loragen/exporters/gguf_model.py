"""A merged model as a GGUF file: the base's own file with the adapter's delta weights added to the tensors it updates.

Metadata and all other tensors are copied as they are, byte for byte.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loragen.base_store.gguf_header import gguf_package
from loragen.errors import AdapterError, ConfigError, cut
from loragen.exporters.export import Exported, Request
from loragen.exporters.gguf_files import (
    check_model,
    check_tensor,
    dequantised,
    new_gguf,
    opened_gguf,
    refuse_out,
    shape_of,
)
from loragen.exporters.gguf_names import EMBEDDINGS, HEAD, MERGE_INSTEAD, Placed, placed
from loragen.files import atomic_write

DTYPES = ("f16", "f32", "q8_0")
MODELFILE = "Modelfile"
_QUOTES, _OTHER_QUOTES = '"""', "'''"
_TOLERANCE = {"F16": 1e-3, "F32": 1e-6, "Q8_0": 2e-2}
"""Largest Frobenius norm of what reading back may miss of a merged weight, as a share of its own."""
_OF_THE_FORMAT = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.alignment")


@dataclass(frozen=True, eq=False)
class _Plan:
    """A tensor of the new file."""

    name: str
    shape: tuple[int, ...]
    kind: Any
    """Of ``gguf.GGMLQuantizationType``."""
    source: Any
    """The tensor of the base's file that it is made from."""
    site: str | None = None
    """The site whose update is added."""
    is_copied: bool = False
    """True if its bytes are the source's."""


def write_gguf_model(request: Request) -> Exported:
    """Write the base's GGUF file with an adapter merged in, read it back, and compare every tensor.

    Raises:
        AdapterError: the adapter does not fit its base, has a site that llama.cpp keeps elsewhere, overflows the type,
            or the file does not read back as it was written.
        ConfigError: there is no GGUF file of the base or it is another model's, or something stands at ``out`` that may
            not be replaced.
        MissingExtraError: the package gguf is not installed.
    """
    gguf_package()
    refuse_out(request.out, force=request.force, read=request.base_gguf)
    if request.base_gguf is None:
        raise ConfigError(
            f"A GGUF model is written from the base's own GGUF file, and none is known of {cut(request.base)}; give it "
            f"with --base-gguf, or {MERGE_INSTEAD}."
        )
    beside = request.out.parent / MODELFILE
    if request.modelfile and beside.exists() and not request.force:
        raise ConfigError(f"{cut(beside)} exists already; give another --out, or --force to replace it.")
    found = placed(request.adapter, request.base, is_local=request.is_local)
    reader = opened_gguf(request.base_gguf)
    check_model(reader, request.base_gguf, found.arch)
    plans = _planned(reader, found, request.base_gguf, request.dtype)
    _write(reader, plans, found, request.out)
    use = f"llama-server -m {request.out}"
    if request.modelfile:
        atomic_write(beside, f"FROM ./{request.out.name}\n{_system_turn(request.system)}")
        use = f"ollama create NAME -f {beside}"
    untied = HEAD not in reader.names and any(plan.name == HEAD for plan in plans)
    notes = (f"the base shares its head with the embeddings; the model has a {HEAD} of its own",) if untied else ()
    return Exported(request.out, found.arch, len(found.places), request.dtype, use, notes)


def _system_turn(system: str | None) -> str:
    """The line of a Modelfile for the system turn; within its quotes there are no escapes."""
    return f"SYSTEM {_QUOTES}{system.replace(_QUOTES, _OTHER_QUOTES)}{_QUOTES}\n" if system else ""


def convert_gguf(path: Path, out: Path, *, dtype: str = "f16") -> Path:
    """Write a model with every quantised matrix of it in another type, and nothing else changed.

    Raises:
        ConfigError: the file is damaged or of a type that cannot be read, or something stands at ``out``.
    """
    refuse_out(out, force=False, read=path)
    reader = opened_gguf(path)
    kept = {gguf_package().GGMLQuantizationType[name] for name in ("F32", "F16", "BF16")}
    plans = [
        _copied(tensor)
        if tensor.tensor_type in kept
        else _Plan(tensor.name, shape_of(tensor), _kind(dtype, shape_of(tensor)), tensor)
        for tensor in reader.tensors
    ]
    _write(reader, plans, None, out)
    return out


def _planned(reader: Any, found: Placed, path: Path, dtype: str) -> list[_Plan]:
    """The tensors of the merged file, in the order of the base's; a head that it shared comes last."""
    sites = {place.tensor: site for site, place in found.places.items()}
    sources = {name: reader.names.get(name) for name in sites}
    if HEAD in sites and sources[HEAD] is None:
        sources[HEAD] = reader.names.get(EMBEDDINGS)
    for site in found.adapter.spec.sites:
        name = found.places[site.name].tensor
        check_tensor(sources[name], path, name, site)
    order = [*(t.name for t in reader.tensors), *(name for name in sites if name not in reader.names)]
    return [
        _Plan(name, shape_of(sources[name]), _kind(dtype, shape_of(sources[name])), sources[name], sites[name])
        if name in sites
        else _copied(reader.names[name])
        for name in order
    ]


def _copied(tensor: Any) -> _Plan:
    return _Plan(tensor.name, shape_of(tensor), tensor.tensor_type, tensor, is_copied=True)


def _kind(dtype: str, shape: tuple[int, ...]) -> Any:
    """The type of a matrix; F16 where its rows do not divide into blocks of Q8_0."""
    gguf = gguf_package()
    kind = gguf.GGMLQuantizationType[dtype.upper()]
    return gguf.GGMLQuantizationType.F16 if shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] else kind


def _write(reader: Any, plans: list[_Plan], found: Placed | None, out: Path) -> None:
    """Write tensor by tensor, so that one of them at a time is in memory, and compare with what is read back."""
    gguf = gguf_package()
    arch = reader.fields["general.architecture"].contents()
    with new_gguf(out, arch, dict(_facts(reader))) as writer:
        if "general.alignment" in reader.fields:
            writer.add_custom_alignment(int(reader.alignment))
        for plan in plans:
            block, size = gguf.GGML_QUANT_SIZES[plan.kind]
            nbytes = int(np.prod(plan.shape)) // block * size
            writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), nbytes, raw_dtype=plan.kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for plan in plans:
            writer.write_tensor_data(plan.source.data if plan.is_copied else _quantised(_merged(plan, found), plan))
        writer.flush()
        _check_written(reader, plans, found, writer.path)


def _facts(reader: Any) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Metadata as `new_gguf` takes it, without what its writer states itself, and without empty lists."""
    for key, field in reader.fields.items():
        if key not in _OF_THE_FORMAT and (field.types != field.types[:1] or field.data):
            yield key, (field.contents(), *field.types[:2])


def _merged(plan: _Plan, found: Placed | None) -> Tensor:
    """The weight of a tensor with its update, float32, rows as in the file."""
    weight = dequantised(plan.source)
    if plan.site is not None and found is not None:
        weight += found.places[plan.site].stored(found.adapter.delta_weight(plan.site).detach().cpu())
    return weight


def _quantised(weight: Tensor, plan: _Plan) -> Any:
    """A weight in the type of its tensor.

    Raises:
        AdapterError: it overflows that type.
    """
    if plan.kind.name != "F32" and float(weight.abs().max()) > torch.finfo(torch.float16).max:
        raise AdapterError(f"The merged weight {plan.name} overflows float16; write it with --dtype f32.")
    return gguf_package().quants.quantize(weight.numpy(), plan.kind)


def _check_written(reader: Any, plans: list[_Plan], found: Placed | None, file: Path) -> None:
    """Read a model back: metadata and copied tensors must be the base's, and every other one what it was made of."""
    read = opened_gguf(file)
    if _metadata(read) != _metadata(reader) or read.names.keys() != {plan.name for plan in plans}:
        raise AdapterError("The model does not read back as it was written; check the disk. Nothing was kept.")
    for plan in plans:
        met = read.names[plan.name]
        if plan.is_copied:
            is_right = np.array_equal(met.data.view(np.uint8), plan.source.data.view(np.uint8))
        else:
            wanted = _merged(plan, found)
            is_right = bool((dequantised(met) - wanted).norm() <= _TOLERANCE[plan.kind.name] * wanted.norm())
        if not is_right:
            raise AdapterError(f"{plan.name} does not read back as it was written; check the disk. Nothing was kept.")


def _metadata(reader: Any) -> Mapping[str, Any]:
    facts = dict(_facts(reader))
    return {key: value for key, (value, *_) in facts.items()}
