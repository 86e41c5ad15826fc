"""SoRA (Ding et al. 2023, arXiv 2311.11696): ΔW = scaling · B diag(g) A, and a gate g that a threshold makes sparse.

A, B and g are trained; after each step of the optimiser |g| is lowered by the threshold, down to 0, which is the
proximal step of an L1 penalty. Ranks whose gate is 0 at the end are cut, so that each site has a rank of its own.
"""

from collections.abc import Callable, Sequence
from typing import final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from loragen.adapters.rank_gate import GatedUpdate
from loragen.bases.linear_sites import Updates
from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import Trainee, best_of, copied, run
from loragen.values import MOST_PARTS


class Sora(ExpertRecipe):
    """Settings of SoRA; ``r`` is the rank that training begins with."""

    name: str = "sora"
    threshold: float = Field(1e-2, ge=0, le=1)
    """ξ, by which each |g| falls after each step. A gate without a gradient falls by steps · threshold in all, from a
    value of about 1; the paper's 3e-4 is for thousands of steps, and cuts next to nothing in a hundred."""
    last_threshold: float | None = Field(None, ge=0, le=1)
    """Where it is given, the threshold goes there from ``threshold`` in equal steps, over equal parts of the
    training."""
    levels: int = Field(7, ge=2, le=MOST_PARTS)
    """Number of these parts; with ``choices`` as many, each part's end is compared on the held-out slice."""
    scaling: float = Field(1.0, gt=0)
    """lora_alpha / r."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Of A and B; the gate has none."""


@final
class GatedFactors(Trainee):
    """A and B of every site and a gate between them, all trained.

    The gate is drawn from N(0, 1) where B is zero. A start with an update of its own keeps it: there the gate is 1.
    """

    def __init__(self, setting: Setting, *, scaling: float = 1.0) -> None:
        super().__init__()
        start, rng = setting.start, setting.rng
        self.sites, self.scaling = tuple(start.lora_B), scaling
        self.lora_A = nn.ParameterList([start.lora_A[site].clone() for site in self.sites])
        self.lora_B = nn.ParameterList([start.lora_B[site] / scaling for site in self.sites])
        self.gate = nn.ParameterList(
            torch.ones(b.shape[1]) if b.any() else torch.randn(b.shape[1], generator=rng)
            for b in (start.lora_B[site] for site in self.sites)
        )

    def updates(self) -> Updates:
        """The gated updates."""
        return self._gated()

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The gate multiplied into B, and ranks whose gate is 0 cut; one rank of zeros is left where all are."""
        return {site: update.folded() for site, update in self._gated().items()}

    def _gated(self) -> dict[str, GatedUpdate]:
        parts = zip(self.sites, self.lora_A, self.lora_B, self.gate, strict=True)
        return {site: GatedUpdate(a, self.scaling * b, gate) for site, a, b, gate in parts}

    @torch.no_grad()
    def shrink(self, threshold: float) -> None:
        """Soft-threshold the gate: g ← sign(g) · max(|g| − threshold, 0)."""
        for gate in self.gate:
            gate.copy_(F.softshrink(gate, threshold))


def train_sora(setting: Setting, recipe: Sora) -> Expert:
    """Train A, B and the gate, with a threshold that stays or rises."""

    def threshold(step: int) -> float:
        if recipe.last_threshold is None:
            return recipe.threshold
        share = (level_of(step, 0, recipe.steps, recipe.levels) - 1) / (recipe.levels - 1)
        return recipe.threshold + share * (recipe.last_threshold - recipe.threshold)

    trainee = GatedFactors(setting, scaling=recipe.scaling)
    return train_gated(setting, trainee, threshold, lengths=setting.lengths, weight_decay=recipe.weight_decay)


def level_of(step: int, begin: int, end: int, levels: int) -> int:
    """Which of ``levels`` equal parts of the steps after ``begin`` up to ``end`` a step is in, counted from 1."""
    return -(-(step - begin) * levels // (end - begin))


def train_gated(
    setting: Setting,
    trainee: GatedFactors,
    threshold: Callable[[int], float],
    *,
    lengths: Sequence[int],
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
) -> Expert:
    """Train gated factors in place; of several lengths the one that does best on the held-out slice is the expert.

    Args:
        setting: the task and its batches.
        trainee: what is trained.
        threshold: from the number of steps done to the threshold of the gate.
        lengths: numbers of steps that are compared.
        betas: of AdamW.
        weight_decay: of A and B.
    """
    points: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}

    def adamw(learning_rate: float) -> torch.optim.Optimizer:
        factors = {"params": [*trainee.lora_A, *trainee.lora_B], "weight_decay": weight_decay}
        gate = {"params": [*trainee.gate], "weight_decay": 0.0}
        return torch.optim.AdamW([factors, gate], lr=learning_rate, betas=betas)

    def step(number: int) -> None:
        trainee.shrink(threshold(number))
        if number in lengths:
            points[number] = copied(trainee.factors())

    run(setting, trainee, setting.steps, optimizer=adamw, on_step=step)
    return best_of(points, setting)
