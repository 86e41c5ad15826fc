"""LoRA-Squeeze (arXiv 2602.10993): the rank of an adapter lowered with the least loss, or raised with none.

Adapters of any ranks, alphas and scalings are taken; what is made has its scaling in B.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.spectrum import Spectrum
from loragen.errors import AdapterError, shown


@dataclass(frozen=True)
class SiteEnergy:
    """The rank of one site, and squared Frobenius norms of its update."""

    r: int
    energy: float
    """Of the whole update."""
    lost: float
    """Of what the rank does not hold."""

    @property
    def kept(self) -> float:
        """Share of the energy that the rank holds; 1 where there is none."""
        return 1 - self.lost / self.energy if self.energy else 1.0


@dataclass(frozen=True, eq=False)
class Squeezed:
    """An adapter in lower rank, and what was lost."""

    adapter: Lora
    sites: Mapping[str, SiteEnergy]
    """By site; empty where nothing was cut."""

    @property
    def energy_kept(self) -> float:
        """Share of the squared Frobenius norm, over all sites, that the ranks hold; 1 means all."""
        return 1 - self._share_lost

    @property
    def relative_error(self) -> float:
        """Frobenius norm of what is lost, over all sites, by that of the whole."""
        return math.sqrt(self._share_lost)

    @property
    def _share_lost(self) -> float:
        energy = sum(site.energy for site in self.sites.values())
        return sum(site.lost for site in self.sites.values()) / energy if energy else 0.0


def squeeze(adapter: Lora, *, rank: int | None = None, energy: float | None = None) -> Squeezed:
    """The nearest adapter in lower rank, in canonical form (see `canonical`).

    Args:
        adapter: of any rank.
        rank: the largest rank of a site.
        energy: in place of a rank: every site gets the smallest rank that keeps this share of its own squared Frobenius
            norm, as in PEFT's ``convert_to_lora``. A share of the whole adapter's norm would need fewer ranks, but
            could take from sites of small updates all that they do.

    Raises:
        AdapterError: neither or both are given, or one is out of range.
    """
    check_cut(rank, energy)
    if rank is None and energy is None:
        raise AdapterError("Neither a rank nor an energy was given to squeeze an adapter to; give one of them.")
    lora_a, lora_b, sites = {}, {}, {}
    for site in adapter.sites:
        lora_a[site], lora_b[site], sites[site] = cut(Spectrum.of_factors(*adapter.scaled_factors(site)), rank, energy)
    return Squeezed(remade(adapter, lora_a, lora_b), sites)


def canonical(adapter: Lora) -> Lora:
    """The same updates, by factors that do not depend on those that were given; a site keeps its rank.

    From the singular value decomposition U S Vᵀ of an update, A = S^½ Vᵀ and B = U S^½, of descending singular values
    and of fixed signs. A rank beyond the smaller size of a module is cut to that. Where singular values are equal,
    their vectors are not unique, and neither is this form.
    """
    return squeeze(adapter, rank=max(site.r for site in adapter.spec.sites)).adapter


def grow(adapter: Lora, rank: int, *, rng: torch.Generator) -> Lora:
    """The same updates in a higher rank at every site, by `grown`.

    Raises:
        AdapterError: a site has a higher rank, or reads fewer features.
    """
    lora_a, lora_b = {}, {}
    for site in adapter.sites:
        a, b = adapter.scaled_factors(site)
        if not len(a) <= rank <= a.shape[1]:
            raise AdapterError(
                f"{site} has rank {len(a)} and reads {a.shape[1]} features, so that it does not grow to rank "
                f"{shown(rank)}; give a rank between these, or squeeze the adapter to lower it."
            )
        lora_a[site], lora_b[site] = grown(a, b, rank, rng=rng)
    return remade(adapter, lora_a, lora_b)


def grown(lora_a: Tensor, lora_b: Tensor, rank: int, *, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Factors (rank, in) and (out, rank) of the same product, which go on with zeros in B, so that training can go on.

    The further rows of A are random, orthogonal to all others, and as long as the given ones are on average, or 1 where
    those are zero or none.
    """
    r, width = lora_a.shape
    drawn = torch.randn(width, rank - r, generator=rng, dtype=torch.float64)
    directions = torch.linalg.qr(torch.cat([lora_a.double().T, drawn], dim=1)).Q[:, r:].T
    length = float(lora_a.double().norm()) / math.sqrt(max(r, 1)) or 1.0
    zeros = lora_b.new_zeros(len(lora_b), rank - r)
    return torch.cat([lora_a, (length * directions).to(lora_a)]), torch.cat([lora_b, zeros], dim=1)


def cut(spectrum: Spectrum, rank: int | None, energy: float | None) -> tuple[Tensor, Tensor, SiteEnergy]:
    """A and B of the best update of a rank, or of the smallest rank, at least 1, that keeps a share of the energy."""
    r = max(1, spectrum.rank(energy)) if energy is not None else rank
    assert r is not None
    a, b = spectrum.factors(r)
    return a, b, SiteEnergy(len(a), spectrum.energy, spectrum.lost(len(a)))


def check_cut(rank: int | None, energy: float | None) -> None:
    """Refuse what cannot be cut to.

    Raises:
        AdapterError: both are given, or one is out of range.
    """
    if rank is not None and energy is not None:
        raise AdapterError("Both a rank and an energy were given, and each says which ranks to take; give one of them.")
    if rank is not None and rank < 1:
        raise AdapterError(f"The rank asked for is {shown(rank)}; a whole number of at least 1 was wanted.")
    if energy is not None and not 0 < energy <= 1:
        raise AdapterError(f"The energy to keep is {shown(energy)}; a share above 0 and at most 1 was wanted.")


def remade(
    adapter: Lora, lora_a: Mapping[str, Tensor], lora_b: Mapping[str, Tensor], *, task_type: str | None = None
) -> Lora:
    """Other factors for the base of an adapter, whose scaling is in B; of its task type, if no other is given."""
    settings = adapter.settings
    return Lora.from_factors(
        lora_a,
        lora_b,
        base_model_name_or_path=settings.base,
        task_type=task_type or settings.task_type,
        fan_in_fan_out=settings.fan_in_fan_out,
    )
