"""Kernel ridge regression from descriptions to adapters: the simplest generator that learns from the experts.

Over experts with unit embeddings eᵢ and coordinates yᵢ of mean ȳ, with Kᵢⱼ = exp((cos(eᵢ, eⱼ) - 1) / bandwidth),

    y(x) = ȳ + k(x)ᵀ (K + alpha I)⁻¹ (Y - ȳ)

is linear in Y and so a weighted sum of experts: with a = (K + alpha I)⁻¹ k(x) the weights are 1/n + aᵢ - mean(a).
They sum to 1 and may be negative. Far from every expert k(x) vanishes, and what is left is the mean of the experts.
"""

from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.conditions.condition import Condition
from loragen.errors import GeneratorError
from loragen.generators.baselines import Merge
from loragen.zoo.expert_index import ExpertIndex, Neighbour
from loragen.zoo.start import frame_of

ALPHAS = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01)
"""From the mean of the experts to almost an interpolation: of equal errors the first, which claims least, is taken."""

BANDWIDTHS = (2.0, 1.0, 0.5, 0.3, 0.2, 0.1, 0.05)


@dataclass(frozen=True, eq=False)
class Ridge(Merge):
    """All experts, weighted by kernel ridge regression on the embeddings of their descriptions.

    The defaults are the choice of `fit` on the bundled zoo.

    Raises:
        GeneratorError: alpha or bandwidth is not above zero.
    """

    alpha: float = 3.0
    """Ridge penalty, in units of the kernel of a description with itself, which is 1."""
    bandwidth: float = 0.2
    """Loss of cosine at which the kernel falls to 1/e."""
    name: ClassVar[str] = "ridge"

    def __post_init__(self) -> None:
        for name, value in (("alpha", self.alpha), ("bandwidth", self.bandwidth)):
            if not value > 0:
                raise GeneratorError(f"{name} is {value} in a ridge regression; a number above zero was wanted.")

    @classmethod
    def fit(cls, library: ExpertIndex) -> "Ridge":
        """Choose alpha and bandwidth by the error of predicting each expert from all others.

        The error is the squared distance of coordinates in the experts' common frame; no task data take part.

        Raises:
            AdapterError: experts disagree on the shape of a site.
        """
        adapters = [library.zoo.adapter(expert) for expert in library.index.ids]
        frame = frame_of(library.zoo, adapters)
        coordinates = torch.stack([frame.coordinates(adapter) for adapter in adapters]).double()
        return cls(library, *chosen(library.index.vectors, coordinates))

    def choose(self, condition: Condition) -> tuple[Neighbour, ...]:
        """Every expert, by decreasing size of its weight, whatever the sign; the weights sum to 1."""
        index = self.library.index
        hits = index.search(condition.embedding, len(index))
        weights = dict(zip(index.ids, self.weights(condition.embedding).tolist(), strict=True))
        neighbours = [Neighbour(hit.id, hit.similarity, weights[hit.id]) for hit in hits]
        return tuple(sorted(neighbours, key=lambda neighbour: -abs(neighbour.weight)))

    def weights(self, embedding: Tensor) -> Tensor:
        """Weights of the experts for an embedding (c,): float64 (n,), summing to 1."""
        vectors = self.library.index.vectors
        kernel = kernel_of(cosines(vectors, vectors), self.bandwidth)
        towards = kernel_of(cosines(vectors, embedding[None]), self.bandwidth)[:, 0]
        a: Tensor = torch.linalg.solve(_penalised(kernel, self.alpha), towards)
        return 1 / len(vectors) + a - a.mean()


def chosen(vectors: Tensor, targets: Tensor) -> tuple[float, float]:
    """Alpha and bandwidth of least error in predicting each target (n, d) from all others by their vectors (n, c)."""
    centred = targets - targets.mean(0)
    gram, alike = centred @ centred.T, cosines(vectors, vectors)
    errors = {
        (alpha, bandwidth): leave_one_out_error(kernel_of(alike, bandwidth), gram, alpha)
        for alpha, bandwidth in product(ALPHAS, BANDWIDTHS)
    }
    return min(errors, key=errors.__getitem__)


def leave_one_out_error(kernel: Tensor, gram: Tensor, alpha: float) -> float:
    """Mean squared distance of each target from its prediction by a regression on all others, exactly.

    With G = (K + alpha I)⁻¹ the hat matrix H = K G has 1 - Hᵢᵢ = alpha Gᵢᵢ, and the left-out residual about a given
    centre c is rᵢ / (1 - Hᵢᵢ) = [G (Y - c)]ᵢ / Gᵢᵢ. The centre is here the mean of the others, as a regression on them
    would have it: with the mean of all, the target left out would take part in its own prediction.

    Args:
        kernel: K, (n, n).
        gram: inner products Y Yᵀ of the centred targets, (n, n): the targets themselves are not needed.
        alpha: ridge penalty, above zero.
    """
    n = len(kernel)
    inverse = torch.linalg.inv(_penalised(kernel, alpha))
    # A single target, centred, is zero whatever is taken from it.
    others = (torch.ones_like(kernel) - torch.eye(n).to(kernel)) / max(n - 1, 1)
    residual = (inverse - inverse.sum(1, keepdim=True) * others) / inverse.diagonal()[:, None]
    return float(((residual @ gram) * residual).sum() / n)


def cosines(vectors: Tensor, queries: Tensor) -> Tensor:
    """Cosines (n, m) of vectors (n, c) and queries (m, c), in double precision."""
    return F.normalize(vectors.double(), dim=1) @ F.normalize(queries.double(), dim=1).T


def kernel_of(cosines: Tensor, bandwidth: float) -> Tensor:
    """K of cosines, of their shape."""
    return torch.exp((cosines - 1) / bandwidth)


def _penalised(kernel: Tensor, alpha: float) -> Tensor:
    return kernel + alpha * torch.eye(len(kernel)).to(kernel)
