"""Nearest neighbours by cosine similarity among named vectors, few or many, and exact search as their reference."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from loragen.conditions.inverted_lists import InvertedLists
from loragen.errors import ZooError

DIGITS = 6
"""Similarities are rounded to so many digits; what then is equal counts as a tie and goes by id."""

SLACK = 1e-4
"""Twice the most by which a float32 product of unit vectors may miss their similarity, with room to spare."""
_ENOUGH = 16
"""Candidates for each vector that is wanted."""
_OF_ALL = 4
"""Where more than one vector in so many is wanted, all are compared."""


@dataclass(frozen=True)
class Hit:
    """A neighbour and its cosine similarity, in [-1, 1]."""

    id: str
    similarity: float


@dataclass(frozen=True, eq=False)
class Index:
    """Named unit vectors: FAISS or lists propose candidates, float64 ranks them.

    Without lists the search is exact. With lists it finds of the k nearest those that lie in the lists it reads, and
    ranks and rounds them as an exact search does.
    """

    ids: tuple[str, ...]
    _table: Tensor
    """Unit rows, float32, shape (rows, d)."""
    _rows: NDArray[np.int64] | None = None
    """The row of each id, where the table holds more or in another order."""
    _lists: InvertedLists | None = None

    @classmethod
    def build(cls, ids: Sequence[str], vectors: Tensor) -> "Index":
        """Index ``vectors`` of shape (n, d), of any length above zero, under ``ids``.

        Raises:
            ZooError: there are none, two share an id, or a vector is zero or not finite.
        """
        assert vectors.ndim == 2
        assert len(ids) == len(vectors)
        if not ids:
            raise ZooError("There is nothing to search in: the zoo is empty. Add an expert first.")
        if len(set(ids)) < len(ids):
            repeated = sorted(name for name, times in Counter(ids).items() if times > 1)
            raise ZooError(f"Ids must be distinct; met more than once: {', '.join(repeated)}.")
        return cls(tuple(ids), unit_rows(vectors))

    @classmethod
    def of_table(cls, ids: Sequence[str], table: Tensor, rows: NDArray[np.int64], lists: InvertedLists) -> "Index":
        """Index some rows, under distinct ``ids``, of a table of unit vectors (memory-mapped, say) that has lists."""
        return cls(tuple(ids), table, rows, lists)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """Dimension d of the vectors."""
        return self._table.shape[1]

    @cached_property
    def vectors(self) -> Tensor:
        """Unit rows in the order of the ids, float32, shape (n, d)."""
        return self._table if self._rows is None else self._table[torch.from_numpy(self._rows)]

    def vectors_at(self, positions: Sequence[int]) -> Tensor:
        """The unit rows of some ids."""
        return self._table[list(positions) if self._rows is None else torch.from_numpy(self._rows[list(positions)])]

    def search(self, query: Tensor, k: int, exclude: Collection[str] = ()) -> list[Hit]:
        """Find the ``k`` nearest (or all, if fewer) of a query of shape (d,), nearest first, without ``exclude``.

        Raises:
            ZooError: the query has another dimension, is zero, or is not finite.
        """
        return self.search_each(query[None], k, exclude)[0]

    def search_each(self, queries: Tensor, k: int, exclude: Collection[str] = ()) -> list[list[Hit]]:
        """Search for every row of ``queries``, shape (m, d), as :meth:`search` does for one."""
        assert k >= 1
        units = _queries(queries, self._table)
        if self._lists is not None and _OF_ALL * k < len(self):
            return [self._near(self._lists, unit, k, exclude) for unit in units]
        kept = _kept(self.ids, exclude)
        candidates = self._candidates(units, min(k, len(kept)), kept) if self._lists is None else [kept] * len(units)
        return [
            _ranked([self.ids[position] for position in row], self.vectors[row], unit, k)
            for row, unit in zip(candidates, units, strict=True)
        ]

    def _near(self, lists: InvertedLists, unit: Tensor, k: int, exclude: Collection[str]) -> list[Hit]:
        places = self._places
        allowed = places >= 0
        if excluded := [self._positions[name] for name in exclude if name in self._positions]:
            assert self._rows is not None
            allowed[self._rows[excluded]] = False
        rows = lists.candidates(unit, allowed, _ENOUGH * k)
        similarities = (self._table.index_select(0, torch.from_numpy(rows)) @ unit).numpy()
        if len(rows) > k:
            last = np.partition(similarities, len(rows) - k)[len(rows) - k]
            rows = rows[similarities >= last - SLACK]
        names = [self.ids[position] for position in places[rows].tolist()]
        return _ranked(names, self._table[torch.from_numpy(rows)], unit, k)

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        """For each row of the table the position of its id, -1 for rows that are not among them."""
        assert self._rows is not None
        places = np.full(len(self._table), -1, dtype=np.int64)
        places[self._rows] = np.arange(len(self._rows))
        return places

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.ids)}

    @cached_property
    def _flat(self) -> Any:
        import faiss

        flat = faiss.IndexFlatIP(self.size)
        flat.add(self.vectors.numpy())
        return flat

    def _candidates(self, units: Tensor, k: int, kept: Sequence[int]) -> list[list[int]]:
        """Positions that surely hold the k nearest of each query, and whatever ties with the last of them."""
        import faiss

        if not k:
            return [[] for _ in units]
        selector = faiss.IDSelectorBatch(torch.tensor(kept).numpy())
        parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # unknown to its stubs
        width = min(2 * k, len(kept))
        while True:
            similarities, positions = self._flat.search(units.numpy(), width, params=parameters)
            if width == len(kept) or (similarities[:, -1] < similarities[:, k - 1] - SLACK).all():
                found: list[list[int]] = positions.tolist()
                return found
            width = min(2 * width, len(kept))


def exact_search(
    ids: Sequence[str], vectors: Tensor, query: Tensor, k: int, exclude: Collection[str] = ()
) -> list[Hit]:
    """Find the ``k`` nearest of ``query`` by comparing it with every vector, the reference of :meth:`Index.search`."""
    units = unit_rows(vectors)
    (unit,) = _queries(query[None], units)
    kept = _kept(ids, exclude)
    return _ranked([ids[position] for position in kept], units[kept], unit, k)


def _kept(ids: Sequence[str], exclude: Collection[str]) -> list[int]:
    excluded = set(exclude)
    return [position for position, one in enumerate(ids) if one not in excluded]


def _queries(queries: Tensor, vectors: Tensor) -> Tensor:
    if queries.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ZooError(
            f"A query has the shape {tuple(queries.shape[1:])}, the index ({vectors.shape[1]},). "
            "Embed the query with the encoder that embedded the zoo."
        )
    return unit_rows(queries)


def unit_rows(vectors: Tensor) -> Tensor:
    """Vectors (n, d) at length 1, float32.

    Raises:
        ZooError: one is zero or not finite.
    """
    exact = vectors.detach().to("cpu", torch.float64)
    lengths: Tensor = torch.linalg.vector_norm(exact, dim=1)
    has_direction = lengths.isfinite() & (lengths > 0)
    if not has_direction.all():
        bad = (~has_direction).nonzero().flatten().tolist()
        raise ZooError(f"Vectors must be finite and not zero to have a direction; those at {bad} are not.")
    return (exact / lengths[:, None]).float()


def _ranked(ids: Sequence[str], vectors: Tensor, query: Tensor, k: int) -> list[Hit]:
    similarities = (vectors.double() * query.double()).sum(dim=1).tolist()
    hits = [Hit(one, round(similarity, DIGITS)) for one, similarity in zip(ids, similarities, strict=True)]
    return sorted(hits, key=lambda hit: (-hit.similarity, hit.id))[:k]
