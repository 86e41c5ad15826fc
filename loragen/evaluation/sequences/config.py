"""Settings of `loragen evaluate --sequence`: groups of tasks that arrive one after the other."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from loragen.bases.devices import DeviceName, DtypeName
from loragen.config import StrictModel
from loragen.continual.registry import names as strategy_names
from loragen.errors import shown
from loragen.recipes.registry import AnyRecipe
from loragen.values import MOST_EXAMPLES, MOST_PARTS, Name


class SequenceConfig(StrictModel):
    """Settings of an evaluation of strategies on one sequence of groups of tasks."""

    zoo: Path
    """Its experts arrive; it stays as it is."""
    tasks: Path
    """The task file of their texts."""
    tasks_root: Path | None = None
    """Folder of the tasks' files, in place of the one that the task file names."""
    groups: dict[Name, tuple[Name, ...]] = Field(min_length=2, max_length=MOST_PARTS)
    """Name of a group → ids of its experts, in the order in which the groups arrive."""
    generator: Path
    """The config of the generator's training; its ``zoo`` and ``out`` are not read."""
    strategies: tuple[str, ...] = Field(default_factory=strategy_names, min_length=1, max_length=MOST_PARTS)
    """Names of strategies (`loragen train --strategies`); all of them by default."""
    merged: AnyRecipe | None = None
    """Adds a row that no generator makes: one adapter that has absorbed all tasks so far, by this recipe."""
    texts: int = Field(200, ge=20, le=MOST_EXAMPLES)
    """Test texts of a task that adapters are scored on, always the same ones."""
    out: Path
    dtype: DtypeName = "auto"
    device: DeviceName = "cpu"

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        ids = [task for group in self.groups.values() for task in group]
        if twice := next((task for task in ids if ids.count(task) > 1), None):
            raise ValueError(f"the expert {shown(twice)} arrives more than once")
        if small := next((name for name, group in self.groups.items() if len(group) < 2), None):
            raise ValueError(f"the group {shown(small)} has fewer than two experts, too few to train a generator on")
        if unknown := [name for name in self.strategies if name not in strategy_names()]:
            raise ValueError(f"{shown(unknown[0])} is no strategy; known: {', '.join(strategy_names())}")
        return self

    @property
    def ids(self) -> tuple[str, ...]:
        """All experts in the order in which they arrive."""
        return tuple(task for group in self.groups.values() for task in group)

    def until(self, moment: int) -> tuple[str, ...]:
        """Experts that have arrived at a moment, counted from 0."""
        return tuple(task for group in list(self.groups.values())[: moment + 1] for task in group)
