"""Settings of `loragen zoo build`, and the tasks that they name."""

from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from loragen.bases.devices import DeviceName, DtypeName
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.methods.lora_sb import GRADIENTS
from loragen.recipes.multitask import MultitaskRecipe
from loragen.recipes.registry import AnyRecipe, wanted_frame
from loragen.tasks.task_set import Task, TaskSet
from loragen.values import MOST_PARTS, Name
from loragen.zoo.card import Manifest
from loragen.zoo.folds import FoldRecipe
from loragen.zoo.ray_config import RayConfig
from loragen.zoo.zoo import SPLIT

Recipe = TypeVar("Recipe", bound=MultitaskRecipe)


class ZooConfig(StrictModel):
    """Settings of `loragen zoo build`."""

    name: Name
    out: Path
    """The zoo's folder, relative to where the command runs."""
    base: str
    tasks: Path
    """A task file, relative to where the command runs."""
    splits: tuple[str, ...] | None = None
    """Splits of the task file to train experts on; by default all its tasks, as the split ``experts``."""
    pooled: str = SPLIT
    """Split whose train files the multi-task adapter and gradients see, and whose tasks folds hold out; all tasks of
    the file where neither this nor ``splits`` is set."""
    only: tuple[str, ...] | None = None
    """Train these tasks alone; the rest can follow in a later run."""
    start_of: Path | None = None
    """Take frame, start and, where experts begin at folds, those folds from this zoo instead of making them."""
    frame: Literal["random", "multitask", "gradients"] = "multitask"
    """Origin of the A that experts share; ``gradients`` makes bases of both sides from the first gradients of the
    pooled tasks, for the recipe ``lora_sb`` with ``basis: zoo``."""
    start: Literal["zero", "multitask", "folds"] = "multitask"
    """Origin of the B that an expert begins with; ``folds`` is the fold that has not seen its family, so that what an
    expert adds is what its task needs and other families do not give, and the mean of the folds for tasks that no fold
    knows."""
    recipe: AnyRecipe = ExpertRecipe()
    multitask: MultitaskRecipe = MultitaskRecipe()
    """Without ``steps``, their number goes by the number of tasks, see `sized`."""
    folds: FoldRecipe | None = None
    """None trains no folds, and leaves those of an earlier build alone. Without ``steps``, as for ``multitask``."""
    score: bool = True
    """Score base and expert on each task's test file."""
    dtype: DtypeName = "auto"
    device: DeviceName = "cpu"
    workers: int = Field(0, ge=0, le=MOST_PARTS)
    """Processes that train experts and folds; 0 takes one a core, and with 1 it is this one. On Ray, 0 takes as many as
    the cluster has room for."""
    executor: Literal["processes", "ray"] = "processes"
    """Experts and folds are trained by processes of this machine, or by workers of a Ray cluster."""
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _folds_are_there_to_start_from(self) -> Self:
        if self.start == "folds" and self.folds is None and self.start_of is None:
            raise ValueError(
                "'start: folds' wants 'folds', at least how many ('number'), or 'start_of', a zoo with folds"
            )
        return self

    @model_validator(mode="after")
    def _start_is_used(self) -> Self:
        wanted = wanted_frame(self.recipe)
        if wanted is not None and (self.start, self.frame) != ("zero", wanted):
            how = "trains within bases of the zoo" if wanted == GRADIENTS else "begins at factors of its own"
            raise ValueError(f"the recipe {self.recipe.name!r} {how}; give 'start: zero' and 'frame: {wanted}'")
        if wanted != self.frame == GRADIENTS:
            raise ValueError(
                f"'frame: {GRADIENTS}' makes bases for the recipe 'lora_sb' with 'basis: zoo'; choose another frame"
            )
        if self.frame == GRADIENTS and self.folds is not None:
            raise ValueError(f"folds are trained outside of the bases of 'frame: {GRADIENTS}'; leave 'folds' out")
        return self

    @property
    def wants_multitask(self) -> bool:
        """True if the multi-task adapter gives the frame or the start, and is not taken from another zoo."""
        return self.start_of is None and "multitask" in (self.frame, self.start)

    @property
    def wants_pooled(self) -> bool:
        """True if the pooled tasks give the frame or the start."""
        return self.wants_multitask or (self.start_of is None and self.frame == GRADIENTS)

    def expert_tasks(self, task_set: TaskSet) -> list[tuple[Task, str]]:
        """Tasks to train experts on, each with its split.

        Raises:
            ConfigError: ``only`` names tasks outside the splits.
            TaskError: there is no such split.
        """
        if self.splits is None:
            tasks = [(task, SPLIT) for task in task_set]
        else:
            tasks = [(task, split) for split in self.splits for task in task_set.split(split)]
        if self.only is None:
            return tasks
        if unknown := sorted(set(self.only) - {task.id for task, _ in tasks}):
            where = "the task file" if self.splits is None else f"the splits {list(self.splits)}"
            raise ConfigError(f"`only` names tasks outside {where}: {', '.join(unknown)}.")
        return [(task, split) for task, split in tasks if task.id in self.only]

    def pooled_tasks(self, task_set: TaskSet) -> tuple[Task, ...]:
        """Tasks that the multi-task adapter sees and that folds hold out.

        Raises:
            TaskError: there is no such split.
        """
        if self.splits is None and "pooled" not in self.model_fields_set:
            return tuple(task_set)
        return task_set.split(self.pooled)

    def sized(self, tasks: int, there: Manifest | None) -> "ZooConfig":
        """The same settings with numbers of multi-task steps and fold steps that were left open.

        They are those of the zoo that is there already; in a new one, the steps of an expert for each of the pooled
        ``tasks``, but no more than the recipe's default, and no fewer than an expert's.
        """
        multitask = _sized(self.multitask, self.recipe.steps, tasks, None if there is None else there.multitask)
        if self.folds is None:
            return self.model_copy(update={"multitask": multitask})
        folds = _sized(self.folds, self.recipe.steps, tasks, None if there is None else there.folds)
        return self.model_copy(update={"multitask": multitask, "folds": folds})


def _sized(recipe: Recipe, expert_steps: int, tasks: int, there: Recipe | None) -> Recipe:
    if "steps" in recipe.model_fields_set:
        return recipe
    steps = max(expert_steps, min(recipe.steps, expert_steps * tasks)) if there is None else there.steps
    return recipe.model_copy(update={"steps": steps})
