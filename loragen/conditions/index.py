"""Nearest neighbours by cosine similarity among named vectors: a FAISS index, and exact search as its reference."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from loragen.errors import ZooError

DIGITS = 6
"""Similarities are rounded to so many digits; what then is equal counts as a tie and goes by id."""

SLACK = 1e-4
"""Twice the most by which a float32 product of unit vectors may miss their similarity, with room to spare."""


@dataclass(frozen=True)
class Hit:
    """A neighbour and its cosine similarity, in [-1, 1]."""

    id: str
    similarity: float


@dataclass(frozen=True)
class Index:
    """Named unit vectors, searched exactly: FAISS proposes candidates, float64 ranks them."""

    ids: tuple[str, ...]
    vectors: Tensor
    """Unit rows, float32, shape (n, d)."""
    _flat: Any

    @classmethod
    def build(cls, ids: Sequence[str], vectors: Tensor) -> "Index":
        """Index ``vectors`` of shape (n, d), of any length above zero, under ``ids``.

        Raises:
            ZooError: there are none, two share an id, or a vector is zero or not finite.
        """
        import faiss

        assert vectors.ndim == 2
        assert len(ids) == len(vectors)
        if not ids:
            raise ZooError("There is nothing to search in: the zoo is empty. Add an expert first.")
        if len(set(ids)) < len(ids):
            repeated = sorted({one for one in ids if ids.count(one) > 1})
            raise ZooError(f"Ids must be distinct; met more than once: {', '.join(repeated)}.")
        units = _units(vectors)
        flat = faiss.IndexFlatIP(units.shape[1])
        flat.add(units.numpy())
        return cls(tuple(ids), units, flat)

    def __len__(self) -> int:
        return len(self.ids)

    def search(self, query: Tensor, k: int, exclude: Collection[str] = ()) -> list[Hit]:
        """Find the ``k`` nearest (or all, if fewer) of a query of shape (d,), nearest first, without ``exclude``.

        Raises:
            ZooError: the query has another dimension, is zero, or is not finite.
        """
        return self.search_each(query[None], k, exclude)[0]

    def search_each(self, queries: Tensor, k: int, exclude: Collection[str] = ()) -> list[list[Hit]]:
        """Search for every row of ``queries``, shape (m, d), as :meth:`search` does for one."""
        assert k >= 1
        units = _queries(queries, self.vectors)
        kept = _kept(self.ids, exclude)
        candidates = self._candidates(units, min(k, len(kept)), kept)
        return [
            _ranked([self.ids[position] for position in row], self.vectors[row], unit, k)
            for row, unit in zip(candidates, units, strict=True)
        ]

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
    units = _units(vectors)
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
    return _units(queries)


def _units(vectors: Tensor) -> Tensor:
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
