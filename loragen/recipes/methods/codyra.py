"""CoDyRA, dynamic rank-selective LoRA (Lu et al. 2024, arXiv 2412.01004): SoRA's gate, dense at first, then sparse.

The first part of the training has no threshold; over the rest it rises in equal steps from 0. In the paper each task's
update is then merged into the base, and the next task starts afresh: see `recipes.sequence.merge_sequence`.
"""

from typing import Annotated

from pydantic import Field

from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.methods.sora import GatedFactors, level_of, train_gated
from loragen.recipes.setting import Setting
from loragen.values import MOST_PARTS

_Beta = Annotated[float, Field(ge=0, lt=1)]


class Codyra(ExpertRecipe):
    """Settings of CoDyRA; ``r`` is the rank that training begins with."""

    name: str = "codyra"
    threshold: float = Field(0.005, ge=0, le=1)
    """κ, the threshold of the gate's last steps."""
    levels: int = Field(50, ge=1, le=MOST_PARTS)
    """Equal steps in which it rises from 0."""
    dense: float = Field(0.5, ge=0, lt=1)
    """Share of the training before that. Lengths within it are not compared on the held-out slice, so that none is
    chosen whose ranks were not selected."""
    betas: tuple[_Beta, _Beta] = (0.9, 0.9999)
    """Of AdamW."""


def train_codyra(setting: Setting, recipe: Codyra) -> Expert:
    """Train A, B and the gate densely, and then with a threshold that rises."""
    begin = int(recipe.dense * recipe.steps)

    def threshold(step: int) -> float:
        if step <= begin:
            return 0.0
        return recipe.threshold * level_of(step, begin, recipe.steps, recipe.levels) / recipe.levels

    lengths = [length for length in setting.lengths if length > begin]
    return train_gated(setting, GatedFactors(setting), threshold, lengths=lengths, betas=recipe.betas)
