"""One adapter for many tasks: trained on their pooled train files, a batch of one task a step."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import Field

from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.config import StrictModel
from loragen.recipes.expert import AdapterObjective, ExpertRecipe, Start
from loragen.tasks.task_set import Task
from loragen.training.schedule import Schedule
from loragen.values import MOST_STEPS


class MultitaskRecipe(StrictModel):
    """Settings of the training of one adapter for all experts' tasks; all others are those of the expert recipe."""

    steps: int = Field(2000, ge=1, le=MOST_STEPS)
    learning_rate: float = Field(3e-3, gt=0)
    steps_per_checkpoint: int = Field(50, ge=1, le=MOST_STEPS)
    """State is kept this often; ``steps`` is rounded up to whole rounds."""


def train_multitask(
    tasks: Sequence[Task],
    base: Base,
    start: Start,
    recipe: ExpertRecipe,
    multitask: MultitaskRecipe,
    *,
    train_a: bool,
    instructed: bool = False,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Start, list[dict[str, float]]]:
    """Train one adapter on the pooled train files, a batch of one task a step, and return it with its losses.

    ``train_a`` trains A along with B. ``instructed`` puts one of a task's descriptions, another each time, in front of
    its texts and labels. With ``checkpoints``, a folder, an interrupted run goes on where it was.
    """
    from loragen.training.lightning_fit import fit

    data = [
        [
            base.prepare(examples, max_length=recipe.max_length, instruction=instruction)
            for instruction in (task.descriptions if instructed else (None,))
        ]
        for task in tasks
        for examples in [task.load_train()]
    ]
    per_epoch = min(multitask.steps_per_checkpoint, multitask.steps)

    def batches(epoch: int) -> list[TaskData]:
        rng = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
        drawn = torch.randint(len(data), (per_epoch,), generator=rng).tolist()
        chosen = [int(torch.randint(len(data[i]), (), generator=rng)) if instructed else 0 for i in drawn]
        return [next(data[i][j].batches(1, recipe.batch_size, rng=rng)) for i, j in zip(drawn, chosen, strict=True)]

    objective = AdapterObjective(base, start, train_a=train_a, contrast_weight=recipe.contrast_weight)
    schedule = Schedule(-(-multitask.steps // per_epoch), per_epoch, multitask.learning_rate)
    history = fit(objective, batches, schedule, seed=recipe.seed, checkpoints=checkpoints, on_step=on_step)
    lora_a = {site: a.detach().cpu().clone() for site, a in zip(objective.sites, objective.lora_A, strict=True)}
    lora_b = {site: b.detach().cpu().clone() for site, b in zip(objective.sites, objective.lora_B, strict=True)}
    return Start(lora_a, lora_b), history
