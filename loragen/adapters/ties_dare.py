"""TIES and DARE at one site: merges of dense delta weights that use only a share of the entries of each.

Both read (delta weight, weight) pairs one after another, so that memory does not grow with the number of adapters. An
adapter that lacks the site is left out of the pairs, which is the same as one whose delta weight is zero.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from loragen.errors import AdapterError


def ties(deltas: Iterable[tuple[Tensor, float]], *, density: float) -> Tensor:
    """Merge by trim, elect and disjoint mean (TIES, Yadav et al. 2023, arXiv 2306.01708, algorithm 1), without its λ.

    Each delta weight (out, in) is trimmed, the weighted sum of the trimmed ones elects a sign per entry, and the entry
    becomes the weighted mean over those that have this sign; where the sum is zero, it is zero. With equal weights this
    is the paper's equation. A negative weight counts as a positive one for the negated delta weight.

    The paper trims over all sites at once; here each site keeps the same share, so that memory is that of one site.

    Raises:
        AdapterError: ``density`` is not in (0, 1].
    """
    _check_density(density)
    # Whatever sign is elected, its mean is known from the sums of positive and of negative entries and their weights.
    up = down = weight_up = weight_down = torch.zeros(())
    for delta, weight in deltas:
        said = weight * trimmed(delta, density)
        up, down = up + said.clamp(min=0), down + said.clamp(max=0)
        weight_up, weight_down = weight_up + abs(weight) * (said > 0), weight_down + abs(weight) * (said < 0)
    elected = up + down
    mean = torch.where(elected > 0, up / weight_up, down / weight_down)
    return torch.where(elected == 0, 0, mean)


def trimmed(delta: Tensor, density: float) -> Tensor:
    """A delta weight with the share ``density`` of its entries of largest magnitude (and all that equal the last)."""
    magnitudes = delta.abs()
    kept = max(round(density * delta.numel()), 1)
    least = magnitudes.flatten().kthvalue(delta.numel() - kept + 1).values
    return torch.where(magnitudes >= least, delta, 0)


def dare(deltas: Iterable[tuple[Tensor, float]], *, density: float, rng: torch.Generator) -> Tensor:
    """Drop entries at random, rescale the others, and sum with weights (DARE, Yu et al. 2023, arXiv 2311.03099).

    Every entry of each delta weight (out, in) stays with probability ``density`` and is then divided by it, so that the
    expectation is the weighted sum.

    Raises:
        AdapterError: ``density`` is not in (0, 1].
    """
    _check_density(density)
    total = torch.zeros(())
    for delta, weight in deltas:
        stays = torch.rand(delta.shape, generator=rng) < density
        total = total + torch.where(stays, weight / density * delta, 0)
    return total


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise AdapterError(f"density is {density}; a share of entries above 0 and at most 1 was wanted.")
