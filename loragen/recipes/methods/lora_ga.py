"""LoRA-GA (Wang et al. 2024, arXiv 2407.05000): the first steps of LoRA go where those of full fine-tuning would.

With the gradient G = U S Vᵀ (out, in) of the loss in a weight, A₀ is the first r right singular vectors, and B₀ the
left ones r + 1 to 2r, both times out^¼ / √γ, the paper's "stable" scale. What s · B₀ A₀ adds at first is taken off the
update, see `recipes.offset`.

PEFT has two things otherwise: B₀ is also multiplied by the singular values r + 1 to 2r, and it alone is scaled. Since
gradients are small, it begins at a much smaller B₀ than the paper.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from loragen.errors import ConfigError
from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.gradients import mean_gradients
from loragen.recipes.offset import OffsetFactors, train_offset
from loragen.recipes.setting import Setting
from loragen.values import MOST_STEPS

Flavour = Literal["paper", "peft"]


class LoraGA(ExpertRecipe):
    """Settings of LoRA-GA."""

    name: str = "lora_ga"
    flavour: Flavour = "paper"
    """How the factors are scaled at the start: as in the paper, or as PEFT does it."""
    gamma: float = Field(16.0, gt=0)
    """The larger, the smaller the factors at the start."""
    batches: int = Field(8, ge=1, le=MOST_STEPS)
    """Batches of the training whose mean gradient gives the start."""
    scaling: float = Field(1.0, gt=0)
    """lora_alpha / r: what B · A is multiplied by."""


def train_lora_ga(setting: Setting, recipe: LoraGA) -> Expert:
    """Train A and B from the gradient's own directions.

    Raises:
        ConfigError: a weight has fewer than 2r singular values.
    """
    return train_offset(setting, gradient_start(setting, recipe))


def gradient_start(setting: Setting, recipe: LoraGA) -> OffsetFactors:
    """Factors of every site from the mean gradient of the first batches, their product taken off the update.

    Raises:
        ConfigError: a weight has fewer than 2r singular values.
    """
    gradients = mean_gradients(setting, recipe.batches)
    for site, gradient in gradients.items():
        if 2 * recipe.r > min(gradient.shape):
            raise ConfigError(
                f"LoRA-GA of rank {recipe.r} takes {2 * recipe.r} singular vectors of the gradient, but {site} maps "
                f"{gradient.shape[1]} to {gradient.shape[0]} features; give a rank of at most "
                f"{min(gradient.shape) // 2}, or other target modules."
            )
    start = {
        site: gradient_factors(gradient, recipe.r, gamma=recipe.gamma, flavour=recipe.flavour)
        for site, gradient in gradients.items()
    }
    return OffsetFactors(start, scaling=recipe.scaling, takes_off_start=True)


def gradient_factors(gradient: Tensor, r: int, *, gamma: float, flavour: Flavour) -> tuple[Tensor, Tensor]:
    """A₀ (r, in) and B₀ (out, r), not scaled by s, of a gradient (out, in) that has at least 2r singular values."""
    left, values, right = torch.linalg.svd(gradient.float(), full_matrices=False)
    scale = len(gradient) ** 0.25 / gamma**0.5
    lora_a, lora_b = right[:r], left[:, r : 2 * r]
    if flavour == "peft":
        return lora_a.contiguous(), (scale * lora_b * values[r : 2 * r]).contiguous()
    return (scale * lora_a).contiguous(), (scale * lora_b).contiguous()
