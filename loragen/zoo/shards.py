"""The weights of a packed zoo: the A that its experts share once, and their B's as rows of memory-mapped shards.

``shared.safetensors`` holds ``SITE.lora_A`` (r, in) and, as metadata, settings and output features. A file of the
folder ``shards`` holds one tensor ``rows`` (capacity, d): an expert is a row, its B's one after another in the order of
sites, and is read alone. A shard that experts are added to has room for more than it holds; the table of cards knows
which rows count. Rows are bfloat16, float16 or float32, as the experts are.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.folder_files import key_of
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.adapters.frame import MOST_FEATURES, Frame
from loragen.adapters.settings import LoraSettings
from loragen.adapters.tensor_file import read_tensors
from loragen.errors import LoragenError, ZooError, cut
from loragen.files import atomic_file, atomic_write
from loragen.zoo.card_table import CardTable, Place

SHARED = "shared.safetensors"
"""File of a packed zoo for what its experts share."""
SHARDS = "shards"
"""Folder of a packed zoo for the experts' B's."""
SHARD_BYTES = 2**27
"""Bytes of a shard: 3,640 experts over MiniLM."""
MOST_ROWS = 4_096
"""Experts of a shard, however small they are."""
GROWING = 256
"""Most experts that a shard is given room for when one is added."""
MOST_SHARDS = 1_000_000
_FACTS = "experts"
"""The one entry of the metadata: the format's writer keeps no order among several."""
_ROWS = "rows"
_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float32: "F32"}
_FAULTS = (OSError, SafetensorError, LoragenError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def file_hash(adapter: Lora) -> str:
    """SHA-256 of the file that holds an adapter's weights, were it written."""
    return hashlib.sha256(adapter.files()[WEIGHTS_NAME]).hexdigest()


@dataclass(frozen=True, eq=False)
class Shared:
    """What the experts of a packed zoo have in common."""

    settings: LoraSettings
    lora_A: Mapping[str, Tensor]
    out_features: Mapping[str, int]
    dtype: torch.dtype

    @classmethod
    def of(cls, adapter: Lora) -> "Shared":
        """What others must share with an expert."""
        outs = {site: len(adapter.lora_B[site]) for site in adapter.sites}
        return cls(adapter.settings, adapter.lora_A, outs, next(iter(adapter.lora_B.values())).dtype)

    @classmethod
    def load(cls, path: Path) -> "Shared":
        """Read the file of a packed zoo.

        Raises:
            ZooError: it is missing or damaged.
        """
        try:
            tensors, metadata = read_tensors(path)
            facts = json.loads(metadata[_FACTS])
            outs = {str(site): _features(out) for site, out in facts["out_features"].items()}
            dtype = {str(dtype): dtype for dtype in _NAMES}[facts["dtype"]]
            settings, a = LoraSettings.from_config(facts["settings"]), {s: tensors[f"{s}.lora_A"] for s in outs}
            if not outs or any(factor.ndim != 2 for factor in a.values()):
                raise ValueError("no A, or one that is no matrix")
            return cls(settings, a, outs, dtype)
        except _FAULTS as error:
            raise _damaged(path, error) from error

    def to_bytes(self) -> bytes:
        """The file of a packed zoo."""
        facts = {
            "settings": self.settings.to_config(),
            "out_features": dict(self.out_features),
            "dtype": str(self.dtype),
        }
        return save({f"{s}.lora_A": a.clone() for s, a in self.lora_A.items()}, metadata={_FACTS: json.dumps(facts)})

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Site → numbers of its B."""
        return {site: out * len(self.lora_A[site]) for site, out in self.out_features.items()}

    @property
    def width(self) -> int:
        """Numbers of an expert, d."""
        return sum(self.sizes.values())

    @property
    def rows_per_shard(self) -> int:
        """Experts of a whole shard."""
        return max(1, min(MOST_ROWS, SHARD_BYTES // (self.width * self.dtype.itemsize)))

    def row(self, name: str, adapter: Lora) -> Tensor:
        """An expert as a row (d,).

        Raises:
            ZooError: it does not share A, settings and type.
        """
        if adapter.settings != self.settings or adapter.sites != tuple(self.out_features):
            raise ZooError(f"The expert {cut(name)} has other settings than the others; a packed zoo has one recipe.")
        for site, a in self.lora_A.items():
            if not torch.equal(adapter.lora_A[site], a) or adapter.lora_A[site].dtype != a.dtype:
                raise ZooError(
                    f"The expert {cut(name)} does not share the A of the others; only experts of a zoo with one frame "
                    "are packed."
                )
            if len(adapter.lora_B[site]) != self.out_features[site] or adapter.lora_B[site].dtype != self.dtype:
                raise ZooError(f"The expert {cut(name)} has a B of another shape or type at {site} than the others.")
        return torch.cat([adapter.lora_B[site].flatten() for site in self.out_features])

    def adapter(self, row: Tensor) -> Lora:
        """The expert of a row (d,)."""
        parts = zip(self.sizes, torch.split(row, list(self.sizes.values())), strict=True)
        return Lora(self.settings, self.lora_A, {s: b.reshape(self.out_features[s], -1).clone() for s, b in parts})

    def file_hash(self, row: Tensor) -> str:
        """`file_hash` of the expert of a row (d,), many times faster: only the B's differ from file to file."""
        content, begin, numbers = self._file, 0, _bytes(row)
        for start, size in self._places:
            content[start : start + size] = numbers[begin : begin + size]
            begin += size
        return hashlib.sha256(content).hexdigest()

    @cached_property
    def _file(self) -> bytearray:
        """The file of an expert's weights, whose B's give way to others."""
        return bytearray(self.adapter(torch.zeros(self.width, dtype=self.dtype)).files()[WEIGHTS_NAME])

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """Where each B begins in the file, and how many bytes it has."""
        length = int.from_bytes(self._file[:8], "little")
        header = json.loads(self._file[8 : 8 + length])
        spans = [header[key_of(site, "B")]["data_offsets"] for site in self.sizes]
        return [(8 + length + first, last - first) for first, last in spans]

    @cached_property
    def scales(self) -> Tensor:
        """What a row is multiplied with to be coordinates over A, (d,)."""
        return torch.cat([torch.full((size,), self.settings.scaling(site)) for site, size in self.sizes.items()])

    def is_frame(self, frame: Frame) -> bool:
        """True if coordinates of a frame are scaled rows."""
        return (
            frame.lora_B is None
            and list(frame.lora_A) == list(self.lora_A)
            and all(torch.equal(frame.lora_A[site], a.float()) for site, a in self.lora_A.items())
        )


@dataclass(frozen=True, eq=False)
class ShardedExperts:
    """The experts of a packed zoo; of their weights, what is asked for is read."""

    root: Path
    table: CardTable
    shared: Shared

    @classmethod
    def open(cls, root: Path, table: CardTable) -> "ShardedExperts":
        """Read what is shared.

        Raises:
            ZooError: it is missing or damaged.
        """
        return cls(root, table, Shared.load(root / SHARED))

    def adapter(self, expert: str) -> Lora:
        """Read one expert.

        Raises:
            ZooError: it is not there, or its shard is damaged.
        """
        place = self.table.place(expert)
        path = shard_path(self.root, place.shard)
        try:
            return self.shared.adapter(self._rows(path, place.place, place.place)[place.place])
        except _FAULTS as error:
            raise _damaged(path, error) from error

    def coordinates(self, shards: NDArray[np.int64], places: NDArray[np.int64]) -> Tensor:
        """Experts at some places as coordinates over the shared A, float32 (n, d), read shard by shard.

        Raises:
            ZooError: a shard is damaged, or holds values that are not finite.
        """
        found = torch.empty(len(shards), self.shared.width)
        for shard in np.unique(shards).tolist():
            at = torch.from_numpy(np.flatnonzero(shards == shard))
            here, path = torch.from_numpy(places)[at], shard_path(self.root, shard)
            try:
                rows = self._rows(path, int(here.min()), int(here.max()))
            except _FAULTS as error:
                raise _damaged(path, error) from error
            found[at] = rows[here].float() * self.shared.scales
        if not found.isfinite().all():
            raise ZooError(f"Experts in {cut(self.root / SHARDS)} hold values that are not finite; restore them.")
        return found

    def _rows(self, path: Path, first: int, last: int) -> Tensor:
        """All rows of a shard, memory-mapped: those that are indexed are read."""
        with safe_open(path, framework="pt") as file:
            part = file.get_slice(_ROWS)
            shape, dtype = part.get_shape(), part.get_dtype()
            if len(shape) != 2 or shape[1] != self.shared.width or dtype != _NAMES[self.shared.dtype]:
                raise ValueError(
                    f"rows of shape {tuple(shape)} and type {dtype}, where {self.shared.width} wide ones "
                    f"of type {_NAMES[self.shared.dtype]} were wanted"
                )
            if first < 0 or last >= shape[0]:
                raise ValueError(f"{shape[0]} rows, where the rows {first} to {last} were wanted")
            rows: Tensor = file.get_tensor(_ROWS)
            return rows


def shard_path(root: Path, number: int) -> Path:
    """The file of a shard.

    Raises:
        ZooError: no shard has this number.
    """
    if not 0 <= number < MOST_SHARDS:
        raise ZooError(f"{cut(root)} names the shard {number}, of at most {MOST_SHARDS:,}; restore its table.")
    return root / SHARDS / f"{number:06}.safetensors"


def write_shards(root: Path, shared: Shared, adapters: Iterable[tuple[str, Lora]]) -> Iterator[Place]:
    """Write experts into new shards, yielding the place of each; its shard is whole when the last was asked for."""
    (root / SHARDS).mkdir(parents=True, exist_ok=True)
    atomic_write(root / SHARED, shared.to_bytes())
    rows: list[Tensor] = []
    number = 0
    for name, adapter in adapters:
        rows.append(shared.row(name, adapter))
        yield Place(number, len(rows) - 1, shared.file_hash(rows[-1]))
        if len(rows) == shared.rows_per_shard:
            write_shard(root, number, torch.stack(rows))
            rows, number = [], number + 1
    if rows:
        write_shard(root, number, torch.stack(rows))


def write_shard(root: Path, number: int, rows: Tensor) -> None:
    """Write a shard of rows (n, d)."""
    atomic_write(shard_path(root, number), save({_ROWS: rows.contiguous()}))


def write_row(root: Path, shared: Shared, last: Place | None, row: Tensor) -> tuple[int, int]:
    """Write a row (d,) behind the last one of a zoo, where no row of the table is, and return its shard and place.

    Raises:
        ZooError: the last shard is damaged.
    """
    shard, place = (0, 0) if last is None else (last.shard, last.place + 1)
    if last is None or place >= _capacity(shard_path(root, shard)):
        shard, place = (0 if last is None else last.shard + 1), 0
        _make_room(shard_path(root, shard), shared)
    _put(shard_path(root, shard), place, _bytes(row))
    return shard, place


def wipe_row(root: Path, shared: Shared, shard: int, place: int) -> None:
    """Write zeros over the row of an expert that was taken out of a zoo.

    Raises:
        ZooError: the shard is damaged.
    """
    path = shard_path(root, shard)
    if place >= _capacity(path):
        raise _damaged(path, ValueError(f"{_capacity(path)} rows, where the row {place} was wanted"))
    _put(path, place, bytes(shared.width * shared.dtype.itemsize))


def _put(path: Path, place: int, content: bytes) -> None:
    """Write a row, as bytes, at a place that the shard has."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        file.seek(8 + length + place * len(content))
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _capacity(path: Path) -> int:
    try:
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice(_ROWS).get_shape()[0])
    except _FAULTS as error:
        raise _damaged(path, error) from error


def _make_room(path: Path, shared: Shared) -> None:
    """A shard of zeros that takes no room on the disk yet, where the file system can do that."""
    capacity = min(GROWING, shared.rows_per_shard)
    size = capacity * shared.width * shared.dtype.itemsize
    facts = {"dtype": _NAMES[shared.dtype], "shape": [capacity, shared.width], "data_offsets": [0, size]}
    header = json.dumps({_ROWS: facts}).encode()
    header += b" " * (-len(header) % 8)
    with atomic_file(path) as new, new.open("r+b") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)


def _bytes(row: Tensor) -> bytes:
    content: bytes = row.contiguous().view(torch.uint8).numpy().tobytes()
    return content


def _features(value: object) -> int:
    if not isinstance(value, int) or not 1 <= value <= MOST_FEATURES:
        raise ValueError(f"{cut(value)} output features")
    return value


def _damaged(path: Path, error: Exception) -> ZooError:
    return ZooError(f"The packed experts {cut(path)} cannot be read ({cut(error)}); restore the file.")
