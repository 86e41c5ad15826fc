"""Safetensors files as arrays of numpy, which has no bfloat16: that is widened to float32."""

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loragen.lean.errors import require

Array = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of a file by name, and its metadata; float32 ones are views of the file, of which nothing is read yet.

    Raises:
        NotLeanError: a type is unknown, or the file is cut off.
        OSError: the file cannot be read.
        ValueError: it is no safetensors file.
    """
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return arrays_of(data)


def arrays_of(data: bytes | mmap.mmap) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The same of a file's bytes."""
    start = 8 + int.from_bytes(data[:8], "little")
    require(start <= len(data), "a table of tensors is cut off")
    header: dict[str, Any] = json.loads(data[8:start])
    metadata: dict[str, str] = header.pop("__metadata__", {})
    return {name: _array(data, start, entry) for name, entry in header.items()}, metadata


def _array(data: bytes | mmap.mmap, start: int, entry: dict[str, Any]) -> NDArray[Any]:
    kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    require(kind in _TYPES, f"a tensor has the type {kind}")
    count = int(np.prod(shape, dtype=np.int64))
    dtype = np.dtype(_TYPES[kind])
    require(count * dtype.itemsize == end - begin and start + end <= len(data), "a tensor is cut off")
    values = np.frombuffer(data, dtype, count, start + begin).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32) if kind == "F16" else values


def finite(*arrays: NDArray[Any]) -> None:
    """Leave values that are not finite to the path with torch, which says where they are.

    Raises:
        NotLeanError: there are such.
    """
    require(all(bool(np.isfinite(each).all()) for each in arrays), "values are not finite")
