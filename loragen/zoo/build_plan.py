"""A plan of a build before the work: how much there is to train, how much is there, and about how long it will take."""

import math
import time
from dataclasses import dataclass

import torch

from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.recipes.expert import AdapterObjective, ExpertRecipe, Start
from loragen.recipes.multitask import MultitaskRecipe
from loragen.tasks.task_set import Task
from loragen.training.threads import SMALL_BASE, few_threads
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_jobs import open_base_of
from loragen.zoo.build_work import BuildWork
from loragen.zoo.executors import available_cores

_PATIENCE = 3.0
"""Seconds for timing; where training steps are long, steps of fewer examples are timed instead."""
_STARTING = 5.0
"""Seconds for worker processes to start and load the base, roughly."""


@dataclass(frozen=True)
class BuildPlan:
    """Work of a build that is still to be done, and an estimate of its time."""

    multitask_steps: int
    """Of the multi-task adapter; 0 where none is asked for, or it is there."""
    folds: int
    """Number of folds to train."""
    fold_steps: int
    """Steps of each of them."""
    to_train: tuple[str, ...]
    """Ids of experts to train."""
    to_score: tuple[str, ...]
    """Ids of experts that are there without scores, and are to be scored."""
    there: tuple[str, ...]
    """Ids of experts that need nothing more."""
    expert_steps: int
    """Steps of each expert."""
    seconds_per_step: float
    """Of training, on this machine; 0 where nothing is left to do."""
    seconds: float
    """Rough estimate for all that is left."""

    @property
    def is_done(self) -> bool:
        """True if nothing is left to do."""
        return not (self.multitask_steps or self.folds or self.to_train or self.to_score)

    def lines(self) -> list[str]:
        """The plan in words, a line a part."""
        if self.is_done:
            return [f"Nothing is left to do: {_counted(len(self.there), 'expert')} there."]
        parts = []
        if self.multitask_steps:
            parts.append(f"multi-task adapter: {self.multitask_steps} steps")
        if self.to_train:
            parts.append(f"{_counted(len(self.to_train), 'expert')} to train, {self.expert_steps} steps each")
        if self.to_score:
            parts.append(f"{_counted(len(self.to_score), 'expert')} to score")
        if self.there:
            parts.append(f"{_counted(len(self.there), 'expert')} there already")
        if self.folds:
            parts.append(f"{_counted(self.folds, 'fold')} to train, {self.fold_steps} steps each")
        return [*parts, f"about {_in_words(self.seconds)} on this machine, at {self.seconds_per_step:.2g} s a step"]


def build_plan(config: ZooConfig) -> BuildPlan:
    """Plan a build: count its work, and time two training steps of the base on this machine. Nothing is written.

    Raises:
        ConfigError: tasks or folds are asked for that there cannot be, or there is no such base.
        TaskError: the task file, or the data of its first task, cannot be used.
    """
    work = BuildWork.of(config)
    return plan_work(work, open_base_of(work.config, choose_dtype(work.config.dtype)))


def plan_work(work: BuildWork, base: Base) -> BuildPlan:
    """Plan the work of a build over a base that is open."""
    config, cards = work.config, work.cards()
    to_train = tuple(name for name, card in cards.items() if card is None)
    to_score = tuple(name for name, card in cards.items() if card is not None and work.lacks_score(card))
    folds = len(work.fold_jobs())
    multitask = _steps_of(config.multitask) if work.lacks_multitask else 0
    fold_steps = 0 if config.folds is None else _steps_of(config.folds)
    step = scoring = 0.0
    if multitask or folds or to_train or to_score:
        first = (*(task for task, _ in work.experts), *work.pooled)[0]
        with few_threads(base.number_of_parameters):
            step = seconds_per_step(base, first, config.recipe)
        scoring = step * _scoring_steps(config, first)
    parallel = _side_by_side(config, base)
    seconds = multitask * step
    seconds += math.ceil(len(to_train) / parallel) * config.recipe.steps * step
    seconds += math.ceil(folds / parallel) * fold_steps * step
    seconds += math.ceil((len(to_score) + len(to_train) * config.score) / parallel) * scoring
    if config.workers != 1:
        seconds += _STARTING * (bool(to_train or to_score) + bool(folds))
    return BuildPlan(
        multitask_steps=multitask,
        folds=folds,
        fold_steps=fold_steps,
        to_train=to_train,
        to_score=to_score,
        there=tuple(name for name in cards if name not in {*to_train, *to_score}),
        expert_steps=config.recipe.steps,
        seconds_per_step=step,
        seconds=seconds,
    )


def _steps_of(recipe: MultitaskRecipe) -> int:
    """Steps that a multi-task training takes, in whole rounds between checkpoints."""
    round_ = min(recipe.steps_per_checkpoint, recipe.steps)
    return -(-recipe.steps // round_) * round_


def _scoring_steps(config: ZooConfig, task: Task) -> float:
    """Training steps that take as long as to score an expert and the bare base; a pass forward is a third of one."""
    return 2 * len(task.load_test()) / config.recipe.batch_size / 3 if config.score else 0.0


def _side_by_side(config: ZooConfig, base: Base) -> int:
    """Workers at the measured speed: over a small base each has a core, over others they share all there is."""
    if base.number_of_parameters >= SMALL_BASE:
        return 1
    return min(config.workers or available_cores(), available_cores())


def seconds_per_step(base: Base, task: Task, recipe: ExpertRecipe) -> float:
    """Seconds of a training step: the mean over two; where they are long, as many times those of fewer examples."""
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(recipe.seed))
    objective = AdapterObjective(base, start, train_a=False, contrast_weight=recipe.contrast_weight)
    data = base.prepare(task.load_train(), max_length=recipe.max_length)
    rng = torch.Generator().manual_seed(recipe.seed)

    def timed(size: int) -> float:
        (batch,) = data.batches(1, min(size, len(data)), rng=rng)
        begun = time.perf_counter()
        torch.autograd.backward(objective.loss(batch.to(base.device))["loss"])
        return time.perf_counter() - begun

    begun, size = time.perf_counter(), 2
    timed(size)  # the first step of a process is slower than all that follow
    while (seconds := timed(size)) and size < recipe.batch_size:
        if time.perf_counter() - begun + 2 * seconds > _PATIENCE:
            return seconds * recipe.batch_size / size
        size = min(4 * size, recipe.batch_size)
    return (seconds + timed(size)) / 2


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return _counted(max(1, round(seconds)), "second")
    return _counted(round(seconds / 60), "minute") if seconds < 5400 else f"{seconds / 3600:.1f} hours"
