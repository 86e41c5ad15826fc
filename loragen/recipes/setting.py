"""All that a recipe trains from: the base, a start, and the batches of one task."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loragen.bases.base import Base
from loragen.bases.text_encoder import with_label_targets
from loragen.bases.tokenised import TaskData
from loragen.errors import TaskError
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.tasks.task_set import Task

LEAST_EXAMPLES = 10
"""Fewer leave nothing to choose the length of training by."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One task made ready for the training of its expert."""

    base: Base
    start: Start
    """The zoo's own frame and B."""
    recipe: ExpertRecipe
    train: TaskData
    """Examples to train on; ``steps`` are drawn from them."""
    held_out: TaskData
    """Examples that choose the length of training."""
    steps: Sequence[TaskData]
    """A batch a step."""
    rng: torch.Generator
    """For what the recipe draws."""

    @classmethod
    def of(cls, task: Task, base: Base, start: Start, recipe: ExpertRecipe) -> "Setting":
        """Read a task's train file, leave a slice aside, and draw the batches.

        Raises:
            TaskError: the train file is too small to leave a slice aside.
        """
        rng = torch.Generator().manual_seed(recipe.seed)
        base = with_label_targets(base, recipe.label_targets).keeping_below(start.lora_B)
        data = base.prepare(task.load_train(), max_length=recipe.max_length)
        if len(data.ids) < LEAST_EXAMPLES:
            raise TaskError(
                f"Task {task.id!r} has {len(data.ids)} training examples; at least {LEAST_EXAMPLES} are needed."
            )
        train, held_out = data.split(recipe.held_out, rng=rng)
        steps = list(train.batches(recipe.steps, recipe.batch_size, rng=rng))
        return cls(base, start, recipe, train, held_out, steps, rng)

    @property
    def lengths(self) -> list[int]:
        """Numbers of steps that are compared on the held-out slice."""
        steps, choices = self.recipe.steps, self.recipe.choices
        return sorted({max(1, round(steps * i / choices)) for i in range(1, choices + 1)})
