"""Several experts of one base side by side: at each site one pair of factors, and which ranks are whose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import common_task_type
from loragen.adapters.rank_gate import block_gate, concatenated
from loragen.adapters.squeeze import canonical, remade
from loragen.bases.linear_sites import Factors
from loragen.errors import AdapterError, shown
from loragen.values import MOST_PARTS

MOST_EXPERTS = MOST_PARTS
"""Experts of one composition."""


@final
@dataclass(frozen=True, eq=False)
class SiteExperts:
    """The experts at one site, joined along the ranks."""

    lora_A: Tensor
    """(Σ r, in)"""
    lora_B: Tensor
    """Scaled, (out, Σ r)."""
    ranks: tuple[int, ...]
    """Of each expert; 0 for one that does not update this site."""

    @cached_property
    def owners(self) -> Tensor:
        """Number of the expert that each rank belongs to, (Σ r,)."""
        return torch.arange(len(self.ranks)).repeat_interleave(torch.tensor(self.ranks))

    @cached_property
    def present(self) -> Tensor:
        """True for experts that update this site, (n,)."""
        return torch.tensor(self.ranks) > 0

    def spread(self, weights: Tensor) -> Tensor:
        """From a weight an expert (..., n) to one a rank (..., Σ r)."""
        return block_gate(weights, self.ranks)


@final
@dataclass(frozen=True, eq=False)
class Experts:
    """Adapters of one base by name, in their order."""

    names: tuple[str, ...]
    loras: tuple[Lora, ...]

    @classmethod
    def of(cls, loras: Sequence[Lora], names: Sequence[str]) -> "Experts":
        """Check that adapters go together.

        Raises:
            AdapterError: there is none, there are too many, two have one name, or they are of several bases or classes
                of models, or have other sizes at one site.
        """
        if not 1 <= len(loras) <= MOST_EXPERTS:
            raise AdapterError(f"{len(loras)} experts were given; 1 to {MOST_EXPERTS:,} can be composed.")
        if twice := sorted({name for name in names if list(names).count(name) > 1}):
            raise AdapterError(f"Two experts are called {shown(twice[0])}; name each once.")
        bases = {lora.settings.base for lora in loras}
        if len(bases) > 1:
            met = ", ".join(sorted(map(shown, bases)))
            raise AdapterError(f"The experts were made for several bases ({met}); compose experts of one base.")
        common_task_type(loras, list(names))
        found = cls(tuple(names), tuple(loras))
        found._check_sizes()
        return found

    def _check_sizes(self) -> None:
        sizes: dict[str, tuple[tuple[int, int], str]] = {}
        for name, lora in zip(self.names, self.loras, strict=True):
            for site in lora.spec.sites:
                size = (site.out_features, site.in_features)
                other, whose = sizes.setdefault(site.name, (size, name))
                if size != other:
                    raise AdapterError(
                        f"At {site.name} the expert {name} maps {size[1]} to {size[0]} features, {whose} maps "
                        f"{other[1]} to {other[0]}; compose experts of one base."
                    )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def base(self) -> str | None:
        """Name of the base."""
        return self.loras[0].settings.base

    @property
    def task_type(self) -> str | None:
        """PEFT's name for their purpose, where one of them states it."""
        return common_task_type(self.loras, list(self.names))

    @cached_property
    def sites(self) -> Mapping[str, SiteExperts]:
        """Site → the experts there, in the order of the first expert's sites."""
        names = dict.fromkeys(site for lora in self.loras for site in lora.sites)
        return {site: self._at(site) for site in names}

    def _at(self, site: str) -> SiteExperts:
        pairs = [lora.scaled_factors(site) if site in lora.lora_A else None for lora in self.loras]
        a, b = concatenated([pair for pair in pairs if pair is not None])
        return SiteExperts(a, b, tuple(0 if pair is None else len(pair[0]) for pair in pairs))

    def canonical(self) -> "Experts":
        """The same updates, each in canonical form: its ranks do not depend on how it was trained, but for signs."""
        return replace(self, loras=tuple(canonical(lora) for lora in self.loras))

    def factors(self, place: int) -> Factors:
        """Scaled factors of one expert by site."""
        return {site: self.loras[place].scaled_factors(site) for site in self.loras[place].sites}

    def with_factors(self, factors: Sequence[Mapping[str, tuple[Tensor, Tensor]]]) -> "Experts":
        """Other factors for the same experts, with the scaling in B."""
        made = [
            remade(lora, {site: a for site, (a, _) in own.items()}, {site: b for site, (_, b) in own.items()})
            for lora, own in zip(self.loras, factors, strict=True)
        ]
        return replace(self, loras=tuple(made))
