"""rsLoRA (Kalajdzievski 2023, arXiv 2312.03732) at a high rank in all linear modules, after H2LooP (arXiv 2603.11139).

B · A is multiplied by alpha / √r in place of LoRA's alpha / r, with which the gradients vanish as the rank grows.
H2LooP Spark trains a rank of 512 so, on 23.5 billion tokens; what is kept of it here is the form.
"""

import math

from pydantic import Field

from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, train_freely
from loragen.values import LARGEST_LAYER

ALL_LINEAR = r"(?!(.*\.)?(pooler|lm_head|embed_out|classifier|score)(\.|$)).*"
"""All linear modules but heads, which PEFT's ``all-linear`` leaves out too, and poolers, which the mean of token states
does not read."""


class RsLoraHigh(ExpertRecipe):
    """Settings of a high rank with rsLoRA's scaling, A and B trained; a recipe of many steps and large data."""

    name: str = "rslora_high"
    r: int = Field(64, ge=1, le=LARGEST_LAYER)
    """Higher than elsewhere; the preset's 512 is for billions of tokens."""
    target_modules: tuple[str, ...] | str = ALL_LINEAR
    learning_rate: float = Field(1e-3, gt=0)
    """Lower than elsewhere, since the update of a step grows with the rank."""
    alpha: float = Field(16.0, gt=0)
    """B · A is multiplied by alpha / √r; the saved adapter has that in B."""


def train_rslora_high(setting: Setting, recipe: RsLoraHigh) -> Expert:
    """Train A and B under the scaling alpha / √r."""
    return train_freely(setting, FreeFactors(setting.start, scaling=recipe.alpha / math.sqrt(recipe.r)))
