"""An inverted file over memory-mapped unit vectors: what is near to a query is looked for in the nearest lists alone.

Each vector belongs to the list of its nearest centroid (Sivic and Zisserman, ICCV 2003; FAISS's k-means finds them). A
search compares the query with the centroids and reads the vectors of some lists from the map, in full precision: what
it finds has the same similarities as in an exact search. Vectors that came after the lists were made are compared with
every query, until they are put into lists.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from loragen.adapters.tensor_file import read_tensors
from loragen.errors import ZooError, cut
from loragen.files import atomic_write

MOST_FLAT = 4_096
"""Vectors that are compared one by one, without lists."""
PROBES = 40
"""Lists that are read in a search: enough for a recall@10 of .98 for descriptions of tasks that no expert was made from
(`test_inverted_lists.py`; among more vectors, `benchmarks/big_zoos.py`). Ones like the experts' need fewer."""
LISTS_PER_ROOT = 2
"""Lists, per square root of the number of vectors."""
MOST_WAITING = 1_024
"""Vectors that wait for lists of theirs."""
_ITERATIONS, _POINTS = 10, 64
"""Of k-means, and points for each centroid."""
_CHUNK = 4_096


@dataclass(frozen=True, eq=False)
class InvertedLists:
    """Which rows of a table of unit vectors are in which list."""

    centroids: Tensor
    """Unit rows, float32, (lists, d)."""
    order: Tensor
    """Rows by list, int64, (covered,): the first rows of the table, each once."""
    starts: Tensor
    """Where each list begins in ``order``, int64, (lists + 1,)."""

    @classmethod
    def build(cls, units: Tensor) -> "InvertedLists":
        """Make lists of unit rows (n, d)."""
        import faiss

        number = max(1, int(LISTS_PER_ROOT * len(units) ** 0.5))
        chosen = torch.randperm(len(units), generator=torch.Generator().manual_seed(0))[: _POINTS * number]
        means = faiss.Kmeans(
            units.shape[1], number, niter=_ITERATIONS, spherical=True, seed=0, min_points_per_centroid=1
        )
        means.train(units[chosen.sort().values].numpy())
        centroids = torch.from_numpy(means.centroids).reshape(number, -1).clone()
        return cls(centroids, torch.empty(0, dtype=torch.int64), torch.zeros(number + 1, dtype=torch.int64)).extended(
            units
        )

    @property
    def covered(self) -> int:
        """Rows of the table that are in lists."""
        return len(self.order)

    def is_outgrown(self, rows: int) -> bool:
        """True if a table of so many rows wants more lists than there are."""
        return rows > 3 * max(1, self.covered)

    def extended(self, units: Tensor) -> "InvertedLists":
        """Put those rows (n, d) that are in no list yet into the lists of their nearest centroids."""
        lists = np.empty(len(units), dtype=np.int64)
        lists[self.order.numpy()] = np.repeat(np.arange(len(self.centroids)), np.diff(self.starts.numpy()))
        for start in range(self.covered, len(units), _CHUNK):
            at = slice(start, start + _CHUNK)
            lists[at] = (units[at] @ self.centroids.T).argmax(1).numpy()
        starts = np.zeros(len(self.centroids) + 1, dtype=np.int64)
        starts[1:] = np.bincount(lists, minlength=len(self.centroids)).cumsum()
        order = torch.from_numpy(np.argsort(lists, kind="stable"))
        return replace(self, order=order, starts=torch.from_numpy(starts))

    def candidates(self, query: Tensor, allowed: NDArray[np.bool_], wanted: int) -> NDArray[np.int64]:
        """Rows among those allowed, (n,), in the lists nearest to a query (d,): at least ``wanted``, if there are.

        Where few are allowed, all of them.
        """
        if np.count_nonzero(allowed) <= MOST_FLAT:
            return np.flatnonzero(allowed)
        lists = (self.centroids @ query).argsort(descending=True, stable=True).numpy()
        found = [np.flatnonzero(allowed[self.covered :]) + self.covered]
        probes, begun = PROBES, 0
        while begun < len(lists) and (begun == 0 or sum(map(len, found)) < wanted):
            rows = np.concatenate([self._rows(number) for number in lists[begun:probes].tolist()])
            found.append(rows[allowed[rows]])
            begun, probes = probes, 2 * probes
        return np.concatenate(found)

    def _rows(self, number: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self.order[self.starts[number] : self.starts[number + 1]].numpy()
        return rows

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors from which `from_tensors` restores the lists; rows are whole numbers of 32 bits there."""
        return {"lists.centroids": self.centroids, "lists.order": self.order.int(), "lists.starts": self.starts}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], rows: int, size: int) -> "InvertedLists":
        """Restore the lists of the first rows of a table of so many, of vectors of this size.

        Raises:
            ZooError: they do not go together.
        """
        centroids, order, starts = (tensors.get(f"lists.{n}", torch.empty(0)) for n in ("centroids", "order", "starts"))
        order, starts = order.long(), starts.long()
        has_lists = centroids.ndim == 2 and centroids.shape[1:] == (size,) and centroids.dtype == torch.float32
        if not (
            has_lists
            and order.ndim == starts.ndim == 1
            and len(starts) == len(centroids) + 1 >= 2
            and starts[0] == 0
            and starts[-1] == len(order) <= rows
            and bool((starts.diff() >= 0).all())
            and bool((order.sort().values == torch.arange(len(order))).all())
        ):
            raise ZooError(f"These are no lists of {rows:,} vectors of size {size}")
        return cls(centroids, order, starts)

    def save(self, path: Path) -> None:
        """Write the lists."""
        atomic_write(path, save({name: value.contiguous() for name, value in self.tensors().items()}))

    @classmethod
    def load(cls, path: Path, rows: int, size: int) -> "InvertedLists":
        """Read the lists of the first rows of a table of so many, of vectors of this size.

        Raises:
            ZooError: the file is missing or damaged, or is of another table.
        """
        tensors, _ = read_tensors(path)
        try:
            return cls.from_tensors(tensors, rows, size)
        except ZooError as error:
            raise ZooError(f"{cut(path)} does not fit ({error}); remove it.") from error


def chunks(size: int, length: int = _CHUNK) -> Iterator[slice]:
    """Consecutive parts of a table of ``size`` rows."""
    return (slice(start, min(start + length, size)) for start in range(0, size, length))
