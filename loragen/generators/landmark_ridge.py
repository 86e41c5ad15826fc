"""Kernel ridge regression on many experts, by landmarks: no kernel of all with all, and no expert read to generate.

Over n experts `ridge` solves n equations for every description. Here the prediction is a sum over the kernels of m of
them, the landmarks Z (subset of regressors; Rasmussen and Williams, Gaussian Processes, 2006, section 8.3.1):

    y(x) = ȳ + k_Z(x)ᵀ (K_Zn K_nZ + alpha K_ZZ)⁻¹ K_Zn (Y - ȳ)

With all experts as landmarks that is `ridge` itself. The sums K_Zn K_nZ, K_Zn Y, K_Zn 1 and Σ y are taken once, in one
reading of the experts, and kept beside the zoo; experts that are added later are added to them. Over 100,000 experts of
MiniLM's size they take 4 · 10¹² operations and 85 MB.
"""

import json
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loragen.adapters.frame import Frame
from loragen.conditions.condition import Condition
from loragen.errors import GeneratorError, ZooError, cut
from loragen.files import atomic_write
from loragen.generators.base import DescriptionGenerator, Generation
from loragen.generators.ridge import chosen, cosines, kernel_of
from loragen.zoo.coordinates import Coordinates, spread
from loragen.zoo.expert_index import ExpertIndex, Neighbour
from loragen.zoo.zoo import Zoo

MOST_EXACT = 500
"""Experts of a packed zoo over which `ridge` solves the equations of all for every description, and reads them all."""
LANDMARKS = 1_024
MOST_CHOSEN_BY = 500
"""Experts whose left-out errors choose alpha and bandwidth; neither depends on the number of experts."""
SHOWN = 100
"""Experts, the nearest, whose weights a generation states: all take part."""
SUMS = "ridge"
"""Folder of a zoo for the sums of its experts."""
_JITTER = 1e-10
_NAMES = ("landmarks", "kernels", "targets", "kernel_sum", "target_sum", "centre")


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over some experts, of which a regression on them is made."""

    alpha: float
    bandwidth: float
    rows: int
    """Experts counted are those in rows of the table below this one."""
    number: int
    landmarks: Tensor
    """Z, unit vectors, (m, c)."""
    kernels: Tensor
    """K_Zn K_nZ, float64, (m, m)."""
    targets: Tensor
    """K_Zn (Y - centre), float32, (m, d)."""
    kernel_sum: Tensor
    """K_Zn 1, float64, (m,)."""
    target_sum: Tensor
    """Σ (y - centre), float64, (d,)."""
    centre: Tensor
    """Near to the mean of the targets, so that little cancels, float32, (d,)."""

    @classmethod
    def begin(cls, library: ExpertIndex, coordinates: Coordinates) -> "Sums":
        """Landmarks, alpha and bandwidth for a zoo, and sums over no expert yet."""
        number = len(library.zoo)
        some = spread(number, MOST_CHOSEN_BY)
        targets = coordinates.at(some)
        centre = targets.mean(0, dtype=torch.float64)
        alpha, bandwidth = chosen(library.index.vectors_at(some), targets.double())
        shuffled = torch.randperm(number, generator=torch.Generator().manual_seed(0))[:LANDMARKS]
        landmarks = library.index.vectors_at(shuffled.sort().values.tolist())
        m, d = len(landmarks), len(centre)
        zeros = (torch.zeros(m, m, dtype=torch.float64), torch.zeros(m, d), torch.zeros(m, dtype=torch.float64))
        return cls(
            *(alpha, bandwidth, 0, 0, landmarks.clone(), *zeros), torch.zeros(d, dtype=torch.float64), centre.float()
        )

    def with_experts(self, library: ExpertIndex, coordinates: Coordinates, positions: list[int]) -> "Sums":
        """The sums with some more experts, of those that a library holds."""
        kernels, targets = self.kernels.clone(), self.targets.clone()
        kernel_sum, target_sum = self.kernel_sum.clone(), self.target_sum.clone()
        for start in range(0, len(positions), 512):
            here = positions[start : start + 512]
            towards = self.kernel(library.index.vectors_at(here))
            y = coordinates.at(here) - self.centre
            kernels += towards @ towards.T
            targets.addmm_(towards.float(), y)
            kernel_sum += towards.sum(1)
            target_sum += y.sum(0, dtype=torch.float64)
        return replace(
            self,
            number=self.number + len(positions),
            kernels=kernels,
            targets=targets,
            kernel_sum=kernel_sum,
            target_sum=target_sum,
        )

    def kernel(self, vectors: Tensor) -> Tensor:
        """Kernels of the landmarks with vectors (n, c): float64 (m, n)."""
        return kernel_of(cosines(self.landmarks, vectors), self.bandwidth)

    @cached_property
    def _factor(self) -> Tensor:
        matrix = self.kernels + self.alpha * self.kernel(self.landmarks)
        jitter = _JITTER * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64)
        factor: Tensor = torch.linalg.cholesky(matrix + jitter)
        return factor

    def solution(self, embedding: Tensor) -> Tensor:
        """(K_Zn K_nZ + alpha K_ZZ)⁻¹ k_Z(x) for an embedding (c,): float64 (m,)."""
        return torch.cholesky_solve(self.kernel(embedding[None]), self._factor)[:, 0]

    def predicted(self, solution: Tensor) -> Tensor:
        """y(x), float32 (d,)."""
        mean = self.target_sum / self.number
        y: Tensor = (solution.float() @ self.targets).double() - (solution @ self.kernel_sum) * mean + mean
        return y.float() + self.centre

    def to_bytes(self, fingerprint: str) -> bytes:
        """The file of a zoo for them; ``fingerprint`` is that of the experts counted."""
        facts = {name: getattr(self, name) for name in ("alpha", "bandwidth", "rows", "number")}
        tensors = {name: getattr(self, name).contiguous() for name in _NAMES}
        return save(tensors, metadata={"facts": json.dumps(facts | {"experts": fingerprint})})

    @classmethod
    def load(cls, path: Path, vectors: int, width: int) -> tuple["Sums", str]:
        """Read the sums, and the fingerprint of the experts counted; the targets are mapped.

        Raises:
            GeneratorError: the file is damaged, or of other sizes.
        """
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                tensors = {name: file.get_tensor(name) for name in _NAMES}
            m = len(tensors["landmarks"])
            sizes = {name: tuple(tensors[name].shape) for name in _NAMES}
            wanted = ((m, vectors), (m, m), (m, width), (m,), (width,), (width,))
            numbers = float(facts["alpha"]), float(facts["bandwidth"]), int(facts["rows"]), int(facts["number"])
            if tuple(sizes.values()) != wanted or min(numbers) <= 0:
                raise ValueError(f"sizes {sizes}")
            small = {name: value.clone() for name, value in tensors.items() if name != "targets"}
            if not all(value.isfinite().all() for value in small.values()):
                raise ValueError("values that are not finite")
            return cls(*numbers, **small, targets=tensors["targets"]), str(facts["experts"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise GeneratorError(f"{cut(path)} cannot be read ({cut(error)}); remove it.") from error


@dataclass(frozen=True, eq=False)
class LandmarkRidge(DescriptionGenerator):
    """All experts of a packed zoo, by kernel ridge regression on the embeddings of their descriptions."""

    library: ExpertIndex
    sums: Sums
    frame: Frame
    peft: dict[str, Any] = field(default_factory=dict)
    """Facts of the base in the settings of a generated adapter."""
    name: ClassVar[str] = "ridge"
    is_stochastic: ClassVar[bool] = False

    @classmethod
    def fit(cls, library: ExpertIndex) -> "LandmarkRidge":
        """Take the sums that the zoo keeps, add the experts that they do not count yet, and keep them.

        Raises:
            GeneratorError: what the zoo keeps is damaged.
            ZooError: so is an expert.
        """
        zoo = library.zoo
        coordinates = Coordinates.of(zoo)
        rows, path = coordinates.columns.row, _file(library)
        sums = _kept(path, library, coordinates) or Sums.begin(library, coordinates)
        waiting = np.flatnonzero(rows >= sums.rows).tolist()
        if waiting:
            sums = replace(sums.with_experts(library, coordinates, waiting), rows=int(rows.max()) + 1)
            with suppress(OSError):  # a read-only or full disk costs time, not the result
                atomic_write(path, sums.to_bytes(zoo.fingerprint))
        settings = zoo.adapter(zoo.ids[0]).settings
        peft = {"task_type": settings.task_type, "fan_in_fan_out": settings.fan_in_fan_out}
        return cls(library, sums, coordinates.frame, {"base": settings.base, **peft})

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Predict once; every sample is the same adapter."""
        solution = self.sums.solution(condition.embedding)
        predicted = self.sums.predicted(solution)
        if not predicted.isfinite().all():
            raise GeneratorError(f"The sums in {cut(_file(self.library))} are damaged; remove the file.")
        adapter = self.frame.adapter(predicted, **self.peft)
        return [Generation(adapter, self._neighbours(condition, solution))] * num_samples

    def _neighbours(self, condition: Condition, solution: Tensor) -> tuple[Neighbour, ...]:
        """The nearest experts with their weights among all, which sum to 1: 1/n + aᵢ - mean(a), as in `ridge`."""
        index = self.library.index
        hits = index.search(condition.embedding, SHOWN)
        a = solution @ self.sums.kernel(index.vectors_at([self._positions[hit.id] for hit in hits]))
        weights = a + (1 - solution @ self.sums.kernel_sum) / self.sums.number
        found = [Neighbour(h.id, h.similarity, w) for h, w in zip(hits, weights.tolist(), strict=True)]
        return tuple(sorted(found, key=lambda neighbour: -abs(neighbour.weight)))

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.library.index.ids)}


def _file(library: ExpertIndex) -> Path:
    return library.zoo.root / SUMS / f"{library.encoder}.safetensors"


def _kept(path: Path, library: ExpertIndex, coordinates: Coordinates) -> Sums | None:
    """The sums that a zoo keeps, where they are of its experts and of their embeddings."""
    if not path.is_file():
        return None
    sums, fingerprint = Sums.load(path, library.index.size, coordinates.frame.size)
    counted = np.flatnonzero(coordinates.columns.row < sums.rows)
    if len(counted) != sums.number or _part(library.zoo, counted.tolist()).fingerprint != fingerprint:
        return None
    return sums


def _part(zoo: Zoo, positions: list[int]) -> Zoo:
    if len(positions) == len(zoo):
        return zoo
    kept = {zoo.ids[at] for at in positions}
    try:
        return zoo.select(without=[name for name in zoo.ids if name not in kept])
    except ZooError:
        return zoo
