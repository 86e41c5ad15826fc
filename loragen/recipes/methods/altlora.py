"""AltLoRA (Yu et al. 2025, 2505.12455): A and B by an optimiser that preconditions each by the other; see `AltLoRA`."""

from typing import Annotated

from pydantic import Field

from loragen.recipes.alt_optimizer import AltLoRA
from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, train_freely

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Share that a running mean keeps of itself in a step."""


class AltLoRARecipe(ExpertRecipe):
    """Settings of AltLoRA; A and B are trained."""

    name: str = "altlora"
    damping: float = Field(1e-3, gt=0, le=1)
    """Added to the diagonals of BᵀB and A Aᵀ before they are inverted; B is zero at first."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Of the momentum and of the second moment."""
    second_moment: bool = True
    """AltLoRA+: steps of about the learning rate in every entry, as Adam's. Without it a step is as large as the
    gradient, and wants a far larger learning rate."""


def train_altlora(setting: Setting, recipe: AltLoRARecipe) -> Expert:
    """Train A and B; gradients are clipped and the learning rate follows its schedule as for every recipe."""
    trainee = FreeFactors(setting.start)

    def optimizer(learning_rate: float) -> AltLoRA:
        return AltLoRA(
            zip(trainee.lora_A, trainee.lora_B, strict=True),
            lr=learning_rate,
            damping=recipe.damping,
            betas=recipe.betas,
            second_moment=recipe.second_moment,
        )

    return train_freely(setting, trainee, optimizer=optimizer)
