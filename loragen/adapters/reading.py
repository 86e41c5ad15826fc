"""Files of an adapter folder, read within bounds: sizes come first, and what is no such file is called by its name.

Bounds are far above what adapters have: the largest known ones are of a few gigabytes and a few thousand tensors.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from loragen.errors import AdapterError, ConfigError, shown
from loragen.paths import read_capped

CONFIG_BYTES = 1_000_000
"""Largest config; that of a real adapter has a few thousand bytes."""
HEADER_BYTES = 25_000_000
"""Largest table of tensors, in a weights file or beside its shards."""
WEIGHTS_BYTES = 16 * 1024**3
"""Largest weights file, or sum of the shards of one."""
MOST_TENSORS = 100_000
DEEPEST = 64
"""Deepest nesting of JSON."""

_LFS = b"version https://git-lfs.github.com/spec/"
_KINDS = (
    (b"PK\x03\x04", "a zip archive, such as torch.save or numpy write"),
    (b"GGUF", "a GGUF file, such as llama.cpp reads"),
    (b"\x80\x02", "a pickle"),
    (b"\x80\x04", "a pickle"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "an array of numpy"),
    (b"\x89HDF", "an HDF5 file"),
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)


def read_adapter_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        AdapterError: it is no regular file, has more than ``limit`` bytes, or cannot be read; or it is a git-LFS
            pointer, which stands for a file that was not fetched.
    """
    try:
        data = read_capped(path, limit, kind="adapter")
    except ConfigError as error:
        raise AdapterError(str(error)) from error
    if data.startswith(_LFS):
        raise AdapterError(
            f"{path.name} is a git-LFS pointer, which stands for a file that was not fetched; run git lfs pull in the "
            "folder, or fetch the adapter again."
        )
    return data


def read_json(path: Path, limit: int = CONFIG_BYTES) -> dict[str, Any]:
    """A mapping that a JSON file holds.

    Raises:
        AdapterError: it cannot be read, is too large or nested too deeply, is no JSON, or holds no mapping or a key
            twice.
    """
    data = read_adapter_file(path, limit)
    try:
        value = parsed(data)
    except ValueError as error:
        what = told_by_bytes(data) or shorter(error)
        raise AdapterError(f"{path.name} is not readable JSON ({what}); fetch or export it again.") from error
    if not isinstance(value, dict):
        raise AdapterError(f"{path.name} holds a {type(value).__name__}; a mapping of keys to values was wanted.")
    return value


def parsed(data: bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is none, is nested too deeply, or has a key twice in a mapping.
    """
    depth = 0
    for byte in re.findall(rb"[\[\]{}]", _STRING.sub(b"", data)):
        depth += 1 if byte in b"[{" else -1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} deep")
    try:
        return json.loads(data, object_pairs_hook=_without_duplicates)
    except RecursionError as error:  # in an encoding of which the brackets were not counted
        raise ValueError("it is nested too deeply") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {shown(counts.most_common(1)[0][0])} stands twice")
    return values


def read_tensors(path: Path, limit: int = WEIGHTS_BYTES) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        AdapterError: it cannot be read, is too large, or is damaged or no such file.
    """
    data = read_adapter_file(path, limit)
    try:
        header = _header(data)
        if len(header) > MOST_TENSORS:
            raise ValueError(f"it names {len(header):,} tensors, where at most {MOST_TENSORS:,} are read")
        return safetensors.torch.load(data)
    # Of the wrong bytes torch makes errors of many kinds, such as a KeyError for a dtype that it does not have.
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError) as error:
        raise AdapterError(
            f"{path.name} is damaged or no safetensors file ({shorter(error)}); fetch or export it again."
        ) from error


def _header(data: bytes) -> dict[str, Any]:
    """The table of a safetensors file; the format's own reader takes the last of several equal keys without a word."""
    # The first eight bytes are a length, which may look like the beginning of any other kind of file.
    if data[8:9] != b"{" and (told := told_by_bytes(data)):
        raise ValueError(told)
    size = int.from_bytes(data[:8], "little")
    if len(data) >= 8 and size > HEADER_BYTES:
        raise ValueError(f"its table of tensors would have {size:,} bytes, where at most {HEADER_BYTES:,} are read")
    if len(data) < 8 + size:
        raise ValueError(f"it is cut off: it has {len(data):,} bytes, and its table of tensors ends at {8 + size:,}")
    if (tensors := data.count(b'"data_offsets"', 8, 8 + size)) > MOST_TENSORS:
        raise ValueError(f"it names {tensors:,} tensors, where at most {MOST_TENSORS:,} are read")
    header = parsed(data[8 : 8 + size])
    if not isinstance(header, dict):
        raise ValueError("its table of tensors is no mapping")
    ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    if ends and len(data) < 8 + size + max(ends):
        raise ValueError(f"it is cut off: it has {len(data):,} bytes, and its tensors end at {8 + size + max(ends):,}")
    return header


def told_by_bytes(data: bytes) -> str | None:
    """What a file is, where its first bytes tell it and it is neither JSON nor safetensors."""
    if not data:
        return "it is empty"
    if re.match(rb"\s*(<!doctype html|<html|<\?xml|<head|<body)", data[:200], re.IGNORECASE):
        return "it is a web page, such as a browser or a login form saves in place of the file"
    if not data[:1024].strip(b"\0"):
        return "it begins with zeros alone, as a copy does that was broken off"
    return next((f"it is {kind}" for beginning, kind in _KINDS if data.startswith(beginning)), None)


def shorter(error: Exception) -> str:
    """The text of an error on one line, cut."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:200]}…"
