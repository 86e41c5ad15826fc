"""Novelty of adapters: distances from the mean of the experts, from the nearest one, and from their mixtures.

All distances are Frobenius norms of differences of delta weights, over all sites together. A generator can look good by
giving back an expert, or the mean of all; only the distance from their mixtures shows anything new, good or bad.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo

REPLAY = 0.02
"""An adapter counts as a copy of an expert within this share of the expert's distance from the mean."""

RESOLUTION = 1e-6
"""Differences below float32's rounding count as zero: distances over whole delta weights, weights of mixtures."""


@dataclass(frozen=True)
class Novelty:
    """Place of an adapter W among experts Eᵢ of mean M, in units of the root mean square of ‖Eᵢ - M‖.

    Where all experts are one, distances are absolute.
    """

    to_mean: float
    """‖W - M‖; about 1 for an expert."""
    to_nearest: float
    """minᵢ ‖W - Eᵢ‖."""
    to_mixture: float
    """min ‖W - Σ wᵢ Eᵢ‖ over wᵢ ≥ 0, Σ wᵢ = 1: 0 where W is a mixture, as far as the mean where that is the best."""
    nearest: str
    """Id of the nearest expert E."""
    mixture: tuple[tuple[str, float], ...]
    """Ids with the largest weights of that best mixture, and the weights; experts without weight are left out."""
    is_replay: bool
    """True if ‖W - E‖ is at most 2 % (`REPLAY`) of ‖E - M‖: W is a copy of the nearest expert."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The experts of a zoo as points whose distances are those of the delta weights."""

    ids: tuple[str, ...]
    frame: Frame
    points: Tensor
    """Float64, (n, d)."""

    @classmethod
    def of(cls, zoo: Zoo) -> "Reference":
        """Place all experts of a zoo (select those that the generators saw) in their common frame.

        Experts that share their A are held exactly; of others, what the frame holds (`Frame.energy_kept`).

        Raises:
            ZooError: the zoo is empty.
            AdapterError: experts disagree on the shape of a site.
        """
        adapters = [zoo.adapter(expert) for expert in zoo.ids]
        frame = frame_of(zoo, adapters)
        return cls(zoo.ids, frame, torch.stack([_point(frame, adapter) for adapter in adapters]))

    def novelty(self, adapter: Lora, *, top: int = 5) -> Novelty:
        """Novelty of an adapter, with the ``top`` experts of its best mixture.

        The part of the adapter outside the experts' frame, in other directions of input or output, adds to each
        distance.

        Raises:
            AdapterError: the adapter has a site, or a shape, that no expert has.
        """
        point, outside = _point(self.frame, adapter), _norm_outside(self.frame, adapter)
        noise = RESOLUTION * max(self._largest_norm, float(point.norm()))

        def distance(other: Tensor) -> float:
            found = math.hypot(float((point - other).norm()), outside)
            return found if found > noise else 0.0

        weights = mixture_weights(self._vertices, self._directions.T @ (point - self._mean))
        nearest = int((self.points - point).norm(dim=1).argmin())
        to_mean, to_nearest = distance(self._mean), distance(self.points[nearest])
        largest = weights.argsort(descending=True, stable=True)[:top].tolist()
        return Novelty(
            to_mean=to_mean / self._spread,
            to_nearest=to_nearest / self._spread,
            # The mean is a mixture too: the best one is never farther, but for rounding.
            to_mixture=min(distance(weights @ self.points), to_mean) / self._spread,
            nearest=self.ids[nearest],
            mixture=tuple((self.ids[i], float(weights[i])) for i in largest if weights[i] > RESOLUTION),
            is_replay=to_nearest <= REPLAY * float((self.points[nearest] - self._mean).norm()),
        )

    @cached_property
    def _mean(self) -> Tensor:
        return self.points.mean(0)

    @cached_property
    def _spread(self) -> float:
        return float((self.points - self._mean).square().sum(1).mean().sqrt()) or 1.0

    @cached_property
    def _largest_norm(self) -> float:
        return float(self.points.norm(dim=1).max())

    @cached_property
    def _directions(self) -> Tensor:
        """Orthonormal basis of the differences between experts, (d, at most n)."""
        directions: Tensor = torch.linalg.qr((self.points - self._mean).T).Q
        return directions

    @cached_property
    def _vertices(self) -> Tensor:
        """The centred experts in that basis: mixtures are found among n numbers an expert instead of d."""
        return (self.points - self._mean) @ self._directions


def mixture_weights(vertices: Tensor, target: Tensor) -> Tensor:
    """Weights (n,), none negative and summing to 1, of the mixture of vertices (n, k) nearest to a target (k,).

    Exact, by one non-negative least squares: with P the vertices minus the target, ‖Pᵀu‖² + (Σu - 1)² over u = s w,
    Σw = 1, is least over s at ‖Pᵀw‖² / (1 + ‖Pᵀw‖²), which grows with ‖Pᵀw‖. So the best u, divided by its sum, is the
    best w: no penalty has to be made large to enforce the sum.
    """
    from scipy.optimize import nnls

    differences = (vertices - target).double()
    differences = differences / (float(differences.norm(dim=1).max()) or 1.0)
    rows = torch.cat([differences.T, torch.ones(1, len(vertices)).to(differences)])
    wanted = torch.zeros(len(rows)).to(differences)
    wanted[-1] = 1.0
    solution, _ = nnls(rows.numpy(), wanted.numpy(), maxiter=30 * len(vertices))
    weights = torch.from_numpy(solution)
    return weights / weights.sum()


def _point(frame: Frame, adapter: Lora) -> Tensor:
    """Coordinates turned so that their distances are those of delta weights, float64 (d,).

    ‖B A‖ = ‖B L‖ where A Aᵀ = L Lᵀ. L is the identity for an orthonormal A, and almost so for one stored in bfloat16.
    Over a basis B of what is written, ‖B C A‖ = ‖Kᵀ C L‖ where BᵀB = K Kᵀ.
    """
    blocks = frame.unflatten(frame.coordinates(adapter).double())
    turned = {site: block @ _triangle(frame.lora_A[site].T) for site, block in blocks.items()}
    if frame.lora_B is not None:
        turned = {site: _triangle(frame.lora_B[site]).T @ block for site, block in turned.items()}
    return frame.flatten(turned)


def _triangle(columns: Tensor) -> Tensor:
    """Lower triangular L of the products of some columns (d, n) with one another, L Lᵀ, float64 (n, n)."""
    triangle: Tensor = torch.linalg.cholesky(columns.double().T @ columns.double())
    return triangle


def _norm_outside(frame: Frame, adapter: Lora) -> float:
    """Norm of the part of an adapter's delta weights that the frame does not hold; orthogonal to all that it holds."""
    squared = 0.0
    for site in adapter.sites:
        (a, b), basis = (factor.double() for factor in adapter.scaled_factors(site)), frame.lora_A[site].double()
        if not torch.equal(adapter.lora_A[site].float(), frame.lora_A[site]):
            within = a @ torch.linalg.pinv(basis) @ basis
            squared += _squared(a - within, b)
            a = within
        if frame.lora_B is not None:
            basis = frame.lora_B[site].double()
            squared += _squared(a, b - basis @ (torch.linalg.pinv(basis) @ b))
    return math.sqrt(squared)


def _squared(a: Tensor, b: Tensor) -> float:
    """‖B A‖², from r x r products alone."""
    return max(float(((a @ a.T) * (b.T @ b)).sum()), 0.0)
