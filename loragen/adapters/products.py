"""Inner products of delta weights, without the delta weights: by factors alone, at any rank."""

import math

from loragen.adapters.adapter import Lora


def inner_product(one: Lora, other: Lora) -> float:
    """Σ over the common sites of ⟨B₁A₁, B₂A₂⟩ = tr((B₁ᵀB₂)(A₂A₁ᵀ)), scaling included; other sites add nothing."""
    total = 0.0
    for site in one.sites:
        if site in other.lora_A:
            (a, b), (c, d) = one.scaled_factors(site), other.scaled_factors(site)
            total += float(((b.double().T @ d.double()) * (a.double() @ c.double().T)).sum())
    return total


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
