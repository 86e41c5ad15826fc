"""Training of one expert, by whichever recipe its settings name."""

from loragen.bases.base import Base
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.registry import row_of
from loragen.recipes.setting import Setting
from loragen.tasks.task_set import Task


def train_expert(task: Task, base: Base, start: Start, recipe: ExpertRecipe) -> Expert:
    """Train an expert on a task's train file, and choose the length of training on a slice of it.

    Raises:
        TaskError: the train file is too small to leave a slice aside.
    """
    return row_of(recipe).train(Setting.of(task, base, start, recipe), recipe)
