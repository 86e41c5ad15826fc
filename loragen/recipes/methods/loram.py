"""LoRAM (Zhang et al. 2025): training on a pruned copy of the base, and recovery for the full one."""

from dataclasses import replace

from pydantic import Field

from loragen.adapters.recover import recovered_factors, restricted_factors
from loragen.bases.linear_sites import Factors
from loragen.bases.pruning import index_map, pruned_base
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, best_of, copied, run


class Loram(ExpertRecipe):
    """Settings of LoRAM."""

    name: str = "loram"
    neurons: float = Field(0.25, ge=0, lt=1)
    """Share of the neurons of each feed-forward layer that the copy is pruned of, those of the least weight norm."""
    heads: float = Field(0.0, ge=0, lt=1)
    """Share of the attention heads of each layer; those that share their keys and values go together."""
    scaling: float = Field(1.0, gt=0)
    """lora_alpha / r: what B · A is multiplied by."""


def train_loram(setting: Setting, recipe: Loram) -> Expert:
    """Train A and B on a pruned copy; recovered for the full base, the lengths are compared there.

    Raises:
        ConfigError: which neurons and heads belong together is not known for the base's architecture.
    """
    base, sites = setting.base, tuple(setting.start.lora_B)
    kept, _ = index_map(
        base.model, base=base.name, base_hash=base.fingerprint, neurons=recipe.neurons, heads=recipe.heads
    )
    small = pruned_base(base, kept).keeping_below(sites)
    inner = restricted_factors({site: (setting.start.lora_A[site], setting.start.lora_B[site]) for site in sites}, kept)
    start = Start({site: a for site, (a, _) in inner.items()}, {site: b for site, (_, b) in inner.items()})
    trainee = FreeFactors(start, scaling=recipe.scaling)
    points: dict[int, Factors] = {}

    def keep(step: int) -> None:
        if step in setting.lengths:
            points[step] = recovered_factors(copied(trainee.factors()), kept)

    run(replace(setting, base=small, start=start), trainee, setting.steps, on_step=keep)
    return best_of(points, setting)
