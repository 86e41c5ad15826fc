"""Merges of adapters on delta weights, in a rank of choice: weighted sums, TIES and DARE.

All is done on scaling · B · A, never on A and B apart, so that adapters of any ranks and scalings merge. A site that an
adapter lacks is zero there.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.spectrum import Spectrum
from loragen.adapters.squeeze import Squeezed, check_cut, cut, remade, squeeze
from loragen.adapters.ties_dare import dare, ties
from loragen.errors import AdapterError, shown

METHODS = ("sum", "ties", "dare")


def combined(
    adapters: Sequence[Lora],
    weights: Sequence[float],
    *,
    method: str = "sum",
    rank: int | None = None,
    energy: float | None = None,
    density: float = 0.2,
    scale: float = 1.0,
    rng: torch.Generator,
) -> Squeezed:
    """Merge by the method of this name, times ``scale``, in rank at most ``rank`` at every site.

    In place of a rank, ``energy`` gives each site the smallest that keeps this share of its squared norm. ``"sum"`` is
    `weighted_sum`; it needs neither ``density`` nor ``rng``, and is exact where neither rank nor energy is asked for.
    ``"ties"`` and ``"dare"`` are `ties_dare.ties` and `dare`, whose full-rank result gives way to its best
    approximation (Eckart-Young) site by site; its rank is by default the largest that an adapter has at the site.

    Raises:
        AdapterError: there is no such method, adapters do not go together, or a value is out of range.
    """
    check_cut(rank, energy)
    if not math.isfinite(scale):
        raise AdapterError(f"The scale of the merge is {scale}; a finite number was wanted.")
    if method == "sum":
        whole = weighted_sum(adapters, [scale * weight for weight in weights])
        exact = rank is None and energy is None
        return Squeezed(whole, {}) if exact else squeeze(whole, rank=rank, energy=energy)
    if method == "ties":
        return _from_dense(adapters, weights, partial(ties, density=density), rank, energy, scale)
    if method == "dare":
        return _from_dense(adapters, weights, partial(dare, density=density, rng=rng), rank, energy, scale)
    raise AdapterError(f"There is no merge {shown(method)}; choose one of {', '.join(METHODS)}.")


def weighted_sum(adapters: Sequence[Lora], weights: Sequence[float]) -> Lora:
    """The adapter whose delta weight is Σ wᵢ · delta weightᵢ at every site, exactly.

    Where all share their A the rank stays; elsewhere factors are concatenated, and the rank is the sum of the ranks.
    Averaging A and B apart would not give this: mean(B) · mean(A) is not mean(B · A).

    Raises:
        AdapterError: there is no adapter, a weight is missing or not finite, or adapters do not go together.
    """
    lora_a, lora_b = {}, {}
    for site, holders in _holders(adapters, weights).items():
        lora_a[site], lora_b[site] = _summed(site, holders)
    return _alike(adapters, lora_a, lora_b)


def common_task_type(adapters: Sequence[Lora], names: Sequence[str] | None = None) -> str | None:
    """The one task type among adapters, `None` if none of them states it; ``names`` tells them apart in messages.

    Raises:
        AdapterError: they state several.
    """
    named = names or [f"adapter {number}" for number in range(1, len(adapters) + 1)]
    kinds = {adapter.settings.task_type: name for adapter, name in zip(adapters, named, strict=True)}
    stated = [kind for kind in kinds if kind is not None]
    if len(stated) > 1:
        told = ", ".join(f"{name} is {kind}" for kind, name in kinds.items() if kind is not None)
        raise AdapterError(
            f"Adapters of one merge must be of one task type, or each model would load a part of it; met {told}. Merge "
            "those of one type, or correct task_type in adapter_config.json."
        )
    return stated[0] if stated else None


def _holders(adapters: Sequence[Lora], weights: Sequence[float]) -> dict[str, list[tuple[Lora, float]]]:
    """Site → the adapters that have it, each with its weight; adapters that cannot be merged are refused."""
    if not adapters or len(adapters) != len(weights):
        raise AdapterError(
            f"A merge takes one weight an adapter, and at least one; met {len(adapters)} and {len(weights)}."
        )
    if not all(map(math.isfinite, weights)):
        raise AdapterError(f"The weights of the merge are {shown(list(weights))}; finite numbers were wanted.")
    bases = {adapter.settings.base for adapter in adapters}
    if len(bases) > 1:
        raise AdapterError(f"Adapters of one merge must share their base model; met {sorted(map(str, bases))}.")
    common_task_type(adapters)
    if len({adapter.settings.fan_in_fan_out for adapter in adapters}) > 1:
        raise AdapterError(
            "Some adapters of the merge set fan_in_fan_out and some do not, so that they disagree on how their base "
            "stores its weights; export them again from one base."
        )
    holders: dict[str, list[tuple[Lora, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for site in adapter.sites:
            holders.setdefault(site, []).append((adapter, weight))
    for site, some in holders.items():
        shapes = {(len(adapter.lora_B[site]), adapter.lora_A[site].shape[1]) for adapter, _ in some}
        if len(shapes) > 1:
            raise AdapterError(f"Adapters of one merge must agree on {site!r}, but its (out, in) is {sorted(shapes)}.")
    return holders


def _summed(site: str, holders: Sequence[tuple[Lora, float]]) -> tuple[Tensor, Tensor]:
    factors = [(*adapter.scaled_factors(site), weight) for adapter, weight in holders]
    first = factors[0][0]
    if all(torch.equal(a, first) for a, _, _ in factors):
        return first, torch.stack([weight * b for _, b, weight in factors]).sum(0)
    return torch.cat([a for a, _, _ in factors]), torch.cat([weight * b for _, b, weight in factors], dim=1)


def _alike(adapters: Sequence[Lora], lora_a: Mapping[str, Tensor], lora_b: Mapping[str, Tensor]) -> Lora:
    """Other factors for the base of some adapters."""
    return remade(adapters[0], lora_a, lora_b, task_type=common_task_type(adapters))


def _from_dense(
    adapters: Sequence[Lora],
    weights: Sequence[float],
    merge: Callable[[Iterable[tuple[Tensor, float]]], Tensor],
    rank: int | None,
    energy: float | None,
    scale: float,
) -> Squeezed:
    """The best approximation in low rank of a merge of dense delta weights, one site at a time."""
    lora_a, lora_b, sites = {}, {}, {}
    for site, holders in _holders(adapters, weights).items():
        delta = scale * merge((adapter.delta_weight(site).double(), weight) for adapter, weight in holders)
        r = None if energy is not None else rank or max(len(adapter.lora_A[site]) for adapter, _ in holders)
        lora_a[site], lora_b[site], sites[site] = cut(Spectrum.of_dense(delta, most=r), r, energy)
    return Squeezed(_alike(adapters, lora_a, lora_b), sites)
