"""Inner products of delta weights, without the delta weights: by factors alone, at any rank."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora


def inner_products(adapters: Sequence[Lora]) -> Tensor:
    """Inner products of the delta weights of any adapters of one base, over all sites, float64 (n, n).

    tr((B A)ᵀ B' A') is the sum over the entries of (Bᵀ B') ∘ (A A'ᵀ): no delta weight is ever made.
    """
    total = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for site in dict.fromkeys(site for adapter in adapters for site in adapter.sites):
        holders = [i for i, adapter in enumerate(adapters) if site in adapter.lora_A]
        factors = [adapters[i].scaled_factors(site) for i in holders]
        owner = torch.tensor([i for i, (a, _) in zip(holders, factors, strict=True) for _ in range(len(a))])
        rows = torch.cat([a for a, _ in factors]).double()
        columns = torch.cat([b for _, b in factors], dim=1).double()
        members = torch.nn.functional.one_hot(owner, len(adapters)).double()
        total += members.T @ ((rows @ rows.T) * (columns.T @ columns)) @ members
    return total


def inner_product(one: Lora, other: Lora) -> float:
    """That of two adapters."""
    return float(inner_products([one, other])[0, 1])


def cosine(one: Lora, other: Lora, *, centre: Lora | None = None) -> float:
    """Cosine of two adapters' delta weights, of what each adds to ``centre`` where it is given; 0 if either is zero."""
    product = inner_product(one, other)
    squares = inner_product(one, one), inner_product(other, other)
    if centre is not None:
        with_one, with_other, own = (inner_product(centre, each) for each in (one, other, centre))
        product += own - with_one - with_other
        squares = squares[0] + own - 2 * with_one, squares[1] + own - 2 * with_other
    return product / math.sqrt(squares[0] * squares[1]) if min(squares) > 1e-12 else 0.0


def distance(one: Lora, other: Lora) -> float:
    """Frobenius norm of the difference of two adapters' delta weights, over all sites together."""
    squared = inner_product(one, one) + inner_product(other, other) - 2 * inner_product(one, other)
    return math.sqrt(max(squared, 0.0))
