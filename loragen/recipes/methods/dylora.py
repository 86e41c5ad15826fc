"""DyLoRA (Valipour et al. 2022, arXiv 2210.07558): nested ranks, of which any first ones are an adapter.

Each step draws b from 1 to r and trains the first b ranks alone, as the adapter that they would be: with the update
scaling · (r / b) · B[:, :b] · A[:b], that is (lora_alpha / b) · B[:, :b] · A[:b]. `adapters.prefix` cuts the expert, or
what was generated in its likeness, to such an adapter.
"""

from collections.abc import Sequence
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from loragen.adapters.prefix import prefix_factors
from loragen.bases.linear_sites import Updates
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import Trainee, train_freely


class Dylora(ExpertRecipe):
    """Settings of DyLoRA."""

    name: str = "dylora"
    mode: Literal["all", "frozen"] = "all"
    """Which of the b ranks of a step get a gradient: all of them, or the last alone."""
    scaling: float = Field(1.0, gt=0)
    """lora_alpha / r, the scaling at full rank."""


@final
class NestedFactors(Trainee):
    """A and B of every site, of which each step uses the first ranks."""

    def __init__(self, start: Start, ranks: Sequence[int], *, scaling: float = 1.0, is_frozen: bool = False) -> None:
        """Begin at a start.

        Args:
            start: the factors at first.
            ranks: number of ranks of each step, for all sites.
            scaling: of the update at full rank.
            is_frozen: of a step's ranks, the last alone gets a gradient.
        """
        super().__init__()
        self.sites, self.scaling, self.is_frozen = tuple(start.lora_B), scaling, is_frozen
        self.lora_A = nn.ParameterList([start.lora_A[site].clone() for site in self.sites])
        self.lora_B = nn.ParameterList([start.lora_B[site] / scaling for site in self.sites])
        self.ranks, self.steps_done = tuple(ranks), 0

    def updates(self) -> Updates:
        """The first ranks, as many as the next step has."""
        rank = self.ranks[self.steps_done]
        return {site: prefix_factors(*self._given(a, b, rank), rank) for site, (a, b) in self.factors().items()}

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors in full, B times the scaling."""
        pairs = zip(self.sites, self.lora_A, self.lora_B, strict=True)
        return {site: (a, self.scaling * b) for site, a, b in pairs}

    def _given(self, a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        if not self.is_frozen:
            return a, b
        below = rank - 1
        return torch.cat([a[:below].detach(), a[below:]]), torch.cat([b[:, :below].detach(), b[:, below:]], dim=1)


def train_dylora(setting: Setting, recipe: Dylora) -> Expert:
    """Train A and B, a number of ranks a step; lengths are compared at full rank."""
    ranks = torch.randint(1, recipe.r + 1, (len(setting.steps),), generator=setting.rng).tolist()
    trainee = NestedFactors(setting.start, ranks, scaling=recipe.scaling, is_frozen=recipe.mode == "frozen")

    def after_step(number: int) -> None:
        trainee.steps_done = number

    return train_freely(setting, trainee, after_step=after_step)
