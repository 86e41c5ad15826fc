"""Adapters of a pruned base made adapters of the full one: LoRAM's recovery (Zhang et al. 2025, arXiv 2502.13533).

Where the input of a site was pruned, A of the full base has zero columns; where its output was, B has zero rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.index_map import IndexMap, SiteMap
from loragen.adapters.origin import Origin
from loragen.errors import AdapterError
from loragen.paths import split_revision


def recover(adapter: Lora, index_map: IndexMap) -> Lora:
    """The adapter of the full base whose update is that of ``adapter`` where features were kept, and zero elsewhere.

    Rank, scaling and names of sites stay; the base that it names is the map's.

    Raises:
        AdapterError: a site is not in the map, or has other sizes than the pruned base there.
    """
    factors = recovered_factors(
        {site: (adapter.lora_A[site], adapter.lora_B[site]) for site in adapter.sites}, index_map
    )
    name, revision = split_revision(index_map.base)
    return Lora(
        replace(adapter.settings, base_model_name_or_path=name, revision=revision),
        {site: a for site, (a, _) in factors.items()},
        {site: b for site, (_, b) in factors.items()},
        Origin(notes=adapter.origin.notes),
    )


def recovered_factors(
    factors: Mapping[str, tuple[Tensor, Tensor]], index_map: IndexMap
) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, in) and B (out, r) of sites of a pruned base at the sizes of the full one, with zeros for what was pruned.

    Raises:
        AdapterError: a site is not in the map, or has other sizes than the pruned base there.
    """
    return {site: _recovered(site, a, b, index_map) for site, (a, b) in factors.items()}


def restricted_factors(
    factors: Mapping[str, tuple[Tensor, Tensor]], index_map: IndexMap
) -> dict[str, tuple[Tensor, Tensor]]:
    """A (r, in) and B (out, r) of sites of the full base without the columns and rows of what was pruned.

    Raises:
        AdapterError: a site is not in the map, or has other sizes than the full base there.
    """
    found = {}
    for site, (a, b) in factors.items():
        kept = index_map.at(site)
        if (len(b), a.shape[1]) != (kept.out_features, kept.in_features):
            raise _misfit(site, a, b, (kept.out_features, kept.in_features), "full")
        found[site] = _kept(a, kept.kept_in, dim=1), _kept(b, kept.kept_out, dim=0)
    return found


def _recovered(site: str, a: Tensor, b: Tensor, index_map: IndexMap) -> tuple[Tensor, Tensor]:
    kept = index_map.at(site)
    if (len(b), a.shape[1]) != kept.pruned_size:
        raise _misfit(site, a, b, kept.pruned_size, "pruned", kept)
    wide_a = _scattered(a, kept.kept_in, kept.in_features, dim=1)
    tall_b = _scattered(b, kept.kept_out, kept.out_features, dim=0)
    return wide_a, tall_b


def _kept(factor: Tensor, indices: Sequence[int] | None, *, dim: int) -> Tensor:
    return factor if indices is None else factor.index_select(dim, torch.tensor(indices, device=factor.device))


def _scattered(factor: Tensor, indices: Sequence[int] | None, size: int, *, dim: int) -> Tensor:
    """A factor whose columns (1) or rows (0) go to some places among ``size`` of zeros."""
    if indices is None:
        return factor
    shape = [size if at == dim else length for at, length in enumerate(factor.shape)]
    return factor.new_zeros(shape).index_copy(dim, torch.tensor(indices, device=factor.device), factor)


def _misfit(
    site: str, a: Tensor, b: Tensor, wanted: tuple[int, int], which: str, kept: SiteMap | None = None
) -> AdapterError:
    met = (len(b), a.shape[1])
    if kept is not None and met == (kept.out_features, kept.in_features):
        return AdapterError(
            f"The adapter has the sizes of the full base at {site!r} already, (out, in) {met}; there is nothing to "
            "recover, so use it as it is."
        )
    return AdapterError(
        f"The adapter maps {met[1]} to {met[0]} features at {site!r}, where the {which} base of the index map maps "
        f"{wanted[1]} to {wanted[0]}; give the map of the base that the adapter was trained on with --map."
    )
