"""Folds of a zoo: for each a multi-task adapter that has not seen some tasks, so that every task has one unseen by it.

A generator that is trained on task loss can begin at that adapter and so learns what helps a task that was not seen.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from pydantic import Field

from loragen.adapters.adapter import Lora
from loragen.config import StrictModel
from loragen.errors import ConfigError, ZooError
from loragen.files import write_folder
from loragen.recipes.multitask import MultitaskRecipe
from loragen.values import MOST_PARTS, MOST_STEPS

FOLDS = "folds"
"""Folder of a zoo for its folds, a numbered folder each."""
FOLD_PLAN = "fold.yaml"
"""File of a fold that holds its `FoldPlan`."""

_Item = TypeVar("_Item")


class FoldRecipe(MultitaskRecipe):
    """The number of folds and the training of each; other settings are those of the zoo's expert recipe."""

    steps: int = Field(1000, ge=1, le=MOST_STEPS)
    learning_rate: float = Field(5e-3, gt=0)
    number: int = Field(6, ge=3, le=MOST_PARTS)


class FoldPlan(StrictModel):
    """Ids of the tasks that a fold's adapter does not see."""

    far: tuple[str, ...]
    """Held out together with their whole family."""
    near: tuple[str, ...]
    """Held out while others of their family stay."""

    @property
    def held_out(self) -> tuple[str, ...]:
        """Ids of all these tasks."""
        return self.far + self.near


@dataclass(frozen=True)
class Fold:
    """A multi-task adapter, and the tasks that were kept from it."""

    plan: FoldPlan
    adapter: Lora

    @property
    def held_out(self) -> tuple[str, ...]:
        """Ids of the tasks that the adapter has not seen."""
        return self.plan.held_out


class Member(Protocol):
    """A member of a family of tasks, such as a `Task` or a `Card`."""

    @property
    def id(self) -> str:
        """The name of the task."""

    @property
    def family(self) -> str:
        """The name of its family; a task without one is a family of its own."""


def plan_folds(tasks: Sequence[Member], number: int, *, rng: torch.Generator) -> tuple[FoldPlan, ...]:
    """Plan folds, so that each task is far in one, and near in another one if its family has further members.

    In every fold some of each family stay, but for the families that are far there. The plans follow from the set of
    tasks and the ``rng``, not from the tasks' order. Sizes of far parts differ by no more than the largest family.

    Raises:
        ConfigError: fewer than 3 folds are asked for, or more than there are families.
    """
    families: dict[str, list[str]] = {}
    for task in sorted(tasks, key=lambda task: task.id):
        families.setdefault(task.family or task.id, []).append(task.id)
    if number < 3:
        raise ConfigError(f"{number} folds were asked for; two tasks of one family need 3, so ask for at least 3.")
    if len(families) < number:
        raise ConfigError(
            f"{number} folds were asked for, but the {len(tasks)} tasks are of {len(families)} families, and each fold "
            "holds out a whole one; ask for fewer folds (3 at least), or add tasks of other families."
        )
    far: list[list[str]] = [[] for _ in range(number)]
    near: list[list[str]] = [[] for _ in range(number)]
    for name in sorted(_shuffled(list(families), rng), key=lambda name: -len(families[name])):
        members = _shuffled(families[name], rng)
        home = _least(far, range(number))
        far[home] += members
        if len(members) == 1:
            continue
        # About a third of a family at a time, and never all of it; more where there are too few folds for that.
        most = max(round(len(members) / 3), math.ceil(len(members) / (number - 1)))
        taken = [0] * number
        for member in members:
            fold = _least(near, [k for k in range(number) if k != home and taken[k] < most])
            near[fold].append(member)
            taken[fold] += 1
    return tuple(FoldPlan(far=tuple(sorted(f)), near=tuple(sorted(n))) for f, n in zip(far, near, strict=True))


def _shuffled(items: Sequence[_Item], rng: torch.Generator) -> list[_Item]:
    return [items[i] for i in torch.randperm(len(items), generator=rng).tolist()]


def _least(parts: Sequence[Sequence[str]], among: Sequence[int]) -> int:
    return min(among, key=lambda k: len(parts[k]))


def write_fold(folder: Path, fold: Fold, losses: Sequence[Mapping[str, float]] = ()) -> None:
    """Write a fold, whole or not at all: its PEFT adapter with the plan and the losses of its training."""
    write_folder(folder, fold_files(fold, losses))


def fold_files(fold: Fold, losses: Sequence[Mapping[str, float]] = ()) -> dict[str, str | bytes]:
    """The files of a fold's folder by name."""
    return {**fold.adapter.files(), FOLD_PLAN: fold.plan.to_yaml(), "losses.json": json.dumps(losses)}


def read_fold(folder: Path) -> Fold:
    """Read one fold.

    Raises:
        ZooError: its plan is missing or damaged.
        AdapterError: its adapter is.
    """
    return Fold(read_plan(folder), Lora.load(folder))


def read_plan(folder: Path) -> FoldPlan:
    """Read what a fold holds out.

    Raises:
        ZooError: the plan is missing or damaged.
    """
    try:
        return FoldPlan.from_yaml(folder / FOLD_PLAN)
    except ConfigError as error:
        raise ZooError(f"A fold is damaged; restore {folder}, or remove it and build again.\n{error}") from error


def fold_folders(folder: Path) -> tuple[Path, ...]:
    """The folders of the folds that lie in ``folder``, by number; none where it is missing."""
    return tuple(sorted((path for path in folder.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name)))


def read_folds(folder: Path) -> tuple[Fold, ...]:
    """Read the folds that lie in ``folder``, by number; none where it is missing.

    Raises:
        ZooError: a plan is missing or damaged.
        AdapterError: an adapter is.
    """
    return tuple(read_fold(path) for path in fold_folders(folder))
