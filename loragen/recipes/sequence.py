"""Tasks one after another, each trained over what the ones before have left: one adapter that has absorbed them all.

That is continual learning by merging, as CoDyRA does it (Lu et al. 2024, arXiv 2412.01004), with the merged update kept
beside the base instead of added to its weights. It is the rival of a zoo, which keeps one expert a task.
"""

from collections.abc import Iterable, Iterator

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.train import train_expert
from loragen.tasks.task_set import Task


def merge_sequence(tasks: Iterable[Task], base: Base, recipe: ExpertRecipe) -> Iterator[Lora]:
    """After each task, in their order, the sum of the updates of all tasks so far, as one adapter of the base.

    A task is trained by the recipe from a fresh random start, with that sum in use: its loss, its choice among lengths
    and gradients of the base's weights see it. Factors are concatenated, so the sum is exact and its rank grows by up
    to ``recipe.r`` a task. The base stays as it is, and nothing is in use while the caller holds an adapter.

    A recipe that starts from the base's weights themselves would see them without the sum.

    Raises:
        ConfigError: the rank exceeds the features that a site reads.
        TaskError: a train file is too small to leave a slice aside.
    """
    rng, sites = torch.Generator().manual_seed(recipe.seed), base.sites(recipe.target_modules)
    merged: Lora | None = None
    for task in tasks:
        start = Start.random(sites, recipe.r, rng=rng)
        with base.adapted(merged):
            expert = train_expert(task, base, start, recipe)
        own = Lora.from_factors(
            expert.lora_A,
            expert.mean,
            base_model_name_or_path=base.name,
            task_type=expert.task_type,
            fan_in_fan_out=expert.fan_in_fan_out,
        )
        merged = own if merged is None else weighted_sum([merged, own], [1.0, 1.0])
        yield merged
