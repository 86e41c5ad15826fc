"""LoRA (Hu et al. 2021): B over the zoo's frozen A, which all its experts share; or, on request, A and B."""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from loragen.recipes.expert import AdapterObjective, Expert, ExpertRecipe, trajectory
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, train_freely


class LoraBoth(ExpertRecipe):
    """Settings of plain LoRA, A and B trained, as PEFT trains it."""

    name: str = "lora_both"
    scaling: float = Field(1.0, gt=0)
    """lora_alpha / r: what B · A is multiplied by, and so how far a step of the optimiser moves the update."""


def train_lora(setting: Setting, recipe: ExpertRecipe) -> Expert:
    """Train B alone; the mean of a window of its trajectory is the expert, and the held-out slice chooses which."""
    objective = AdapterObjective(setting.base, setting.start, train_a=False, contrast_weight=recipe.contrast_weight)
    points = trajectory(objective, setting.steps, recipe.learning_rate, seed=recipe.seed)
    return _choose_window(objective, points, setting)


def train_both(setting: Setting, recipe: LoraBoth) -> Expert:
    """Train A and B."""
    return train_freely(setting, FreeFactors(setting.start, scaling=recipe.scaling))


def _choose_window(objective: AdapterObjective, points: Mapping[str, Tensor], setting: Setting) -> Expert:
    recipe, start = setting.recipe, setting.start
    window = min(recipe.window, recipe.steps)
    ends = sorted({max(window, end) for end in setting.lengths})

    def mean_at(end: int) -> dict[str, Tensor]:
        return {site: p[end - window : end].mean(0) for site, p in points.items()}

    def held_out_loss(end: int) -> float:
        factors = {site: (start.lora_A[site], b) for site, b in mean_at(end).items()}
        return objective.validation_loss(setting.held_out, factors)

    losses = {end: held_out_loss(end) for end in ends}
    best = min(losses, key=lambda end: losses[end])
    tail = {site: p[best - window : best] for site, p in points.items()}
    kept = torch.linspace(0, window - 1, min(recipe.snapshots, window)).round().long()
    return Expert(
        lora_A=start.lora_A,
        mean=mean_at(best),
        variance={site: p.var(0) for site, p in tail.items()},
        snapshots={site: p[kept] for site, p in tail.items()},
        steps=best,
        held_out_losses=losses,
        task_type=setting.base.task_type,
        fan_in_fan_out=setting.base.stores_transposed(points),
    )
