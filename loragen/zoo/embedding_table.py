"""Embeddings of a packed zoo of many experts: files of vectors that are mapped, and lists to search them by.

A folder an encoder, of three files. ``experts.f32`` holds a unit vector for each row of the table of cards, the mean
direction of its descriptions; ``descriptions.f32`` one for each description; ``lists.safetensors`` the inverted lists.
The first two are rows of float32 without a header. The table of cards states how many rows count.
"""

import os
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from loragen.conditions.index import Index, unit_rows
from loragen.conditions.inverted_lists import MOST_WAITING, InvertedLists
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, ZooError, cut
from loragen.locks import lock
from loragen.zoo.card_table import TABLE, CardTable, set_embedded, writing

EMBEDDINGS = "embeddings"
"""Folder of a zoo for the embeddings of its own descriptions: generation need not compute them again."""
VECTORS, DESCRIPTIONS, LISTS = "experts.f32", "descriptions.f32", "lists.safetensors"
MOST_CACHED = 10_000
"""Experts of a zoo whose texts may be in the encoder's own cache, which is read whole."""
_AT_ONCE = 512
"""Experts that are embedded and written at once."""


@dataclass(frozen=True, eq=False)
class Paraphrases(Sequence[Tensor]):
    """For each of some experts the unit embeddings of its descriptions, (p, c), read from a map."""

    vectors: Tensor
    """Of all descriptions, (rows, c)."""
    first: NDArray[np.int64]
    number: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, at: Any) -> Any:  # an int or a slice
        if isinstance(at, slice):
            return [self[each] for each in range(len(self))[at]]
        first = int(self.first[at])
        return self.vectors[first : first + int(self.number[at])]


@dataclass(frozen=True, eq=False)
class EmbeddingTable:
    """Embeddings of the experts of a packed zoo by one encoder."""

    table: CardTable
    """Of all experts."""
    encoder: TextEncoder
    folder: Path

    @classmethod
    def of(cls, root: Path, encoder: TextEncoder) -> "EmbeddingTable":
        """That of a zoo and an encoder, whether there are embeddings yet or not."""
        return cls(CardTable.open(root / TABLE), encoder, root / EMBEDDINGS / encoder.key)

    def index(self, experts: CardTable) -> tuple[Index, Paraphrases]:
        """The index of some experts and their descriptions' embeddings; what is missing is computed and kept first.

        Raises:
            ZooError: a file is damaged, or embeddings are missing and cannot be written.
        """
        rows = self.table.size()
        if self.table.embedded(self.encoder.key) < rows:
            self._complete()
        columns, vectors = experts.columns(), self._mapped(VECTORS, rows)
        if len(columns.row) and int(columns.row.max()) >= rows:
            raise ZooError(f"{cut(self.table.path)} was changed while it was read; open the zoo again.")
        of_descriptions = self._mapped(DESCRIPTIONS, int((columns.first_description + columns.descriptions).max()))
        index = Index.of_table(experts.ids, vectors, columns.row, self._lists(vectors))
        return index, Paraphrases(of_descriptions, columns.first_description, columns.descriptions)

    def _complete(self) -> None:
        """Embed the experts that are not embedded yet, and write them, in parts."""
        root = self.table.path.parent
        try:
            with lock(root):
                table = CardTable.open(self.table.path)
                columns, done = table.columns(), table.embedded(self.encoder.key)
                by_row = np.argsort(columns.row)
                waiting = by_row[columns.row[by_row] >= done].tolist()
                for start in range(0, len(waiting), _AT_ONCE):
                    here = waiting[start : start + _AT_ONCE]
                    texts = [table[table.ids[at]].descriptions for at in here]
                    last = int(columns.row[here[-1]]) + 1
                    self.write(columns.row[here], columns.first_description[here], self.embedded(texts))
                    with writing(self.table.path) as opened:
                        set_embedded(opened, self.encoder.key, last)
                self._reach(table.size())
        except (OSError, ConfigError, sqlite3.Error) as error:
            raise ZooError(
                f"The embeddings of {cut(root)} by {self.encoder.name} are not complete and cannot be written "
                f"({cut(error)}); copy the zoo to where it can be written."
            ) from error

    def _reach(self, rows: int) -> None:
        """State that all rows are embedded, and make room for the last ones, of experts that were taken out."""
        path = self.folder / VECTORS
        if self.table.embedded(self.encoder.key) < rows:
            with path.open("r+b" if path.exists() else "w+b") as file:
                file.truncate(max(path.stat().st_size, 4 * self.encoder.size * rows))
            with writing(self.table.path) as opened:
                set_embedded(opened, self.encoder.key, rows)

    def embedded(self, texts: Sequence[Sequence[str]]) -> list[Tensor]:
        """Embeddings of some experts' descriptions, (p, c) each."""
        cached = len(self.table) <= MOST_CACHED and any(self.folder.parent.glob("*.safetensors"))
        encoder = replace(self.encoder, cache=self.folder.parent) if cached else self.encoder
        vectors = encoder.encode([text for some in texts for text in some])
        return list(torch.split(vectors, [len(some) for some in texts]))

    def write(self, rows: NDArray[np.int64], first: NDArray[np.int64], embedded: Sequence[Tensor]) -> None:
        """Write embeddings at ascending rows, where they do not count before the table of cards says so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        means = unit_rows(torch.stack([mean_direction(vectors) for vectors in embedded]))
        with ExitStack() as held:
            for name, starts, blocks in ((VECTORS, rows, means[:, None]), (DESCRIPTIONS, first, embedded)):
                path = self.folder / name
                file = held.enter_context(path.open("r+b" if path.exists() else "w+b"))
                for start, block in zip(starts.tolist(), blocks, strict=True):
                    file.seek(4 * means.shape[1] * start)
                    file.write(block.contiguous().numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())

    def _mapped(self, name: str, rows: int) -> Tensor:
        """The first rows of a file of vectors."""
        path, size = self.folder / name, self.encoder.size
        there = path.stat().st_size if path.is_file() else 0
        if there < 4 * rows * size:
            raise ZooError(
                f"{cut(path)} has {there:,} bytes, where {rows:,} vectors of {size} numbers were wanted; remove the "
                "folder, and `embedded` of its table of experts, or restore it."
            )
        return torch.from_file(str(path), shared=False, size=rows * size, dtype=torch.float32).reshape(rows, size)

    def _lists(self, vectors: Tensor) -> InvertedLists:
        """The lists of all experts: those kept, or new ones, which are kept where that can be."""
        path = self.folder / LISTS
        kept = InvertedLists.load(path, len(vectors), vectors.shape[1]) if path.exists() else None
        if kept is not None and len(vectors) - kept.covered <= MOST_WAITING:
            return kept
        outgrown = kept is None or kept.is_outgrown(len(vectors))
        made = InvertedLists.build(vectors) if kept is None or outgrown else kept.extended(vectors)
        try:
            made.save(path)
        except OSError:  # a read-only or full disk costs time, not the result
            return made
        return made


def mean_direction(embeddings: Tensor) -> Tensor:
    """The unit vector along the mean of some embeddings (p, c)."""
    return F.normalize(embeddings.mean(0), dim=0)
