"""The header of a GGUF file, read within bounds before any library opens the file.

Layout (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), all numbers little-endian: ``GGUF``, version, number
of tensors, number of values; each value as key, type and content; each tensor as name, shape, type and offset; then the
tensors themselves. A header that promises more than the file holds costs no memory: its lengths are compared with the
size of the file first.
"""

import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

from loragen.bases.pretrained import MOST_LAYERS
from loragen.errors import ConfigError, MissingExtraError, cut, shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
LARGEST_FILE = 100_000_000_000
"""Bytes of a GGUF file."""
LARGEST_HEADER = 500_000_000
MOST_TENSORS, MOST_VALUES, MOST_ENTRIES = 100_000, 10_000, 10_000_000
"""Tensors, values and, in all arrays together, their entries."""
MOST_DIMENSIONS = 4
LONGEST_KEY, LONGEST_STRING = 65_535, 10_000_000
_SCALARS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?", "", "", "Q", "q", "d")))
_STRING, _ARRAY = 8, 9


@final
@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies in the file, and how."""

    name: str
    shape: tuple[int, ...]
    """The fastest dimension first."""
    quantisation: str
    """Such as ``Q4_1`` or ``F32``."""

    @property
    def size(self) -> int:
        """Number of its entries."""
        return math.prod(self.shape)


@final
@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself."""

    values: Mapping[str, Any]
    """Texts and numbers by key; of an array its number of entries."""
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        """Such as ``llama``."""
        return str(self.values["general.architecture"])

    @property
    def parameters(self) -> int:
        """Entries of all tensors."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def licence(self) -> str | None:
        """As the file states it, if it does."""
        found = self.values.get("general.license")
        return found[:200] if isinstance(found, str) and found.strip() else None


def read_header(path: Path) -> GgufHeader:
    """Read and check the header of a GGUF file, and that the file is as long as it says.

    Raises:
        ConfigError: it is no GGUF file, one of another version, cut off, damaged or too large.
        MissingExtraError: ``gguf`` is not installed.
    """
    gguf_package()
    size = os.path.getsize(path)
    if not path.is_file() or size > LARGEST_FILE:
        raise ConfigError(f"{cut(path)} is no file of at most {LARGEST_FILE:,} bytes; give a GGUF file.")
    with path.open("rb") as file:
        try:
            return _Reader(file, min(size, LARGEST_HEADER), size).header()
        except _Fault as fault:
            raise ConfigError(f"{cut(path)} {fault}; fetch it again, or give another GGUF file.") from None


def gguf_package() -> Any:
    """The package gguf, which knows the quantisations and llama.cpp's names.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise MissingExtraError("GGUF files need 'gguf', which is not installed: pip install 'loragen[lm]'") from error
    return gguf


class _Fault(Exception):
    """What is wrong with a file, as a clause that follows its name."""


@final
class _Reader:
    """Takes a header from a file piece by piece; ``most`` is where it must have ended."""

    def __init__(self, file: BinaryIO, most: int, size: int) -> None:
        self._file, self._most, self._size = file, most, size
        self._at = self._entries = 0

    def header(self) -> GgufHeader:
        """Read it all.

        Raises:
            _Fault: something does not fit.
        """
        if (magic := self._take(min(4, self._most))) != MAGIC:
            raise _Fault(f"is no GGUF file: it begins with {magic!r}, not {MAGIC!r}")
        if (version := self._number("I")) in (each << 24 for each in VERSIONS):
            raise _Fault("is big-endian, which is not supported")
        if version not in VERSIONS:
            raise _Fault(f"is a GGUF file of version {version}, where {VERSIONS[0]} or {VERSIONS[1]} was wanted")
        tensors, count = self._count(MOST_TENSORS, "tensors", least=24), self._count(MOST_VALUES, "values", least=13)
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self._text(LONGEST_KEY)
            if key in values:
                raise _Fault(f"has two values {shown(key)}")
            values[key] = self._value(self._number("I"))
        alignment = values.get("general.alignment", 32)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            raise _Fault(f"has the alignment {shown(alignment)}, where a power of two was wanted")
        infos = [self._tensor() for _ in range(tensors)]
        header = GgufHeader(values, tuple(info for info, _, _ in infos))
        _check_values(header)
        self._check_end(infos, -(-self._at // alignment) * alignment)
        return header

    def _check_end(self, infos: list[tuple[TensorInfo, int, int]], begin: int) -> None:
        wanted = max(begin + offset + length for _, offset, length in infos)
        if wanted > self._size:
            raise _Fault(f"is cut off: it has {self._size:,} bytes, and its header speaks of {wanted:,}")

    def _tensor(self) -> tuple[TensorInfo, int, int]:
        """A tensor, its offset, and its length in bytes."""
        from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

        name = self._text(LONGEST_KEY)
        dimensions = self._number("I")
        if dimensions > MOST_DIMENSIONS:
            raise _Fault(f"has a tensor {shown(name)} of {dimensions:,} dimensions")
        shape = tuple(self._number("Q") for _ in range(dimensions))
        kind, offset = self._number("I"), self._number("Q")
        known = {int(each): each for each in GGMLQuantizationType}
        if kind not in known:
            raise _Fault(f"has a tensor {shown(name)} of the quantisation {kind}, which this gguf does not know")
        block, length = GGML_QUANT_SIZES[known[kind]]
        info = TensorInfo(name, shape, known[kind].name)
        if info.size > LARGEST_FILE or (shape and shape[0] % block):
            raise _Fault(f"has a tensor {shown(name)} of the shape {shape}, which {info.quantisation} cannot have")
        return info, offset, info.size // block * length

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text(LONGEST_STRING)
        if kind == _ARRAY:
            inner = self._number("I")
            count = self._count(MOST_ENTRIES, "entries of an array", least=8 if inner == _STRING else 1)
            self._entries += count
            if self._entries > MOST_ENTRIES:
                raise _Fault(f"has arrays of over {MOST_ENTRIES:,} entries")
            if inner == _STRING:
                for _ in range(count):
                    self._skip(self._number("Q"))
            else:
                self._skip(count * struct.calcsize(self._code(inner)))
            return count
        return self._number(self._code(kind))

    def _code(self, kind: int) -> str:
        if not (code := _SCALARS.get(kind, "")):
            raise _Fault(f"has a value of the type {kind}, which no GGUF file has")
        return code

    def _count(self, most: int, what: str, *, least: int) -> int:
        """A number of things of at least so many bytes each."""
        count: int = self._number("Q")
        if count > most or count * least > self._size:
            raise _Fault(f"is damaged: its header speaks of {shown(count)} {what}")
        return count

    def _number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code)))[0]

    def _text(self, most: int) -> str:
        length = self._number("Q")
        if length > most:
            raise _Fault(f"is damaged: its header has a text of {length:,} bytes")
        return self._take(length).decode("utf-8", errors="replace")

    def _take(self, length: int) -> bytes:
        self._reserve(length)
        data = self._file.read(length)
        if len(data) < length:
            raise _Fault("is cut off within its header")
        return data

    def _skip(self, length: int) -> None:
        self._reserve(length)
        self._file.seek(length, os.SEEK_CUR)

    def _reserve(self, length: int) -> None:
        if self._at + length > self._most:
            much = f"has a header of over {LARGEST_HEADER:,} bytes"
            raise _Fault(much if self._size > self._most else f"is cut off within its header, at {self._size:,} bytes")
        self._at += length


def _check_values(header: GgufHeader) -> None:
    """Refuse what no model could be laid out from."""
    architecture = header.values.get("general.architecture")
    if not isinstance(architecture, str):
        raise _Fault("does not say of which architecture it is (general.architecture)")
    if not header.tensors:
        raise _Fault("holds no tensors")
    if len({tensor.name for tensor in header.tensors}) < len(header.tensors):
        raise _Fault("has two tensors of one name")
    layers = header.values.get(f"{architecture}.block_count")
    if isinstance(layers, int) and layers > MOST_LAYERS:
        raise _Fault(f"says that it has {layers:,} layers, where at most {MOST_LAYERS:,} are taken")
