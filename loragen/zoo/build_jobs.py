"""Jobs of a build, an expert or a fold each: independent of one another, so that any executor can run them anywhere."""

import shutil
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.bases.open import open_base
from loragen.files import atomic_write
from loragen.recipes.expert import Start
from loragen.recipes.multitask import train_multitask
from loragen.recipes.train import train_expert
from loragen.tasks.task_set import Task
from loragen.training.threads import few_threads
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_start import adapter_of
from loragen.zoo.card import CARD, EXPERTS, Card, Manifest, expert_files
from loragen.zoo.folds import FOLD_PLAN, FOLDS, Fold, FoldPlan, read_folds, read_plan, write_fold
from loragen.zoo.start import read_start


@dataclass(frozen=True)
class BuildContext:
    """Settings that all jobs of a build have in common."""

    config: ZooConfig
    manifest: Manifest
    dtype: torch.dtype

    @property
    def start_folds(self) -> Path:
        """The folder of the folds that experts begin at: the zoo's own, or those of the zoo it takes its start from."""
        taken = self.config.start_of if self.config.folds is None else None
        return (taken or self.config.out) / FOLDS


@dataclass(frozen=True)
class WorkerContext:
    """Everything that a process which runs jobs keeps between them."""

    build: BuildContext
    base: Base
    start: Start
    stop: Event | None = None
    """Set when the build ends before its time: a fold, which takes long, then ends at its next step. None where this is
    the process of the build itself, which an interruption reaches at once."""

    @classmethod
    def open(cls, build: BuildContext, stop: Event | None = None) -> "WorkerContext":
        """Load the base, and the zoo's frame and start."""
        return cls(build, open_base_of(build.config, build.dtype), read_start(build.config.out), stop)

    def run(self, job: "Job") -> None:
        """Run a job, over a small base with one thread."""
        with few_threads(self.base.number_of_parameters):
            job.run(self)

    def check_stop(self, _step: int = 0) -> None:
        """End the work at once if the build has ended."""
        if self.stop is not None and self.stop.is_set():
            raise KeyboardInterrupt


def open_base_of(config: ZooConfig, dtype: torch.dtype) -> Base:
    """Load the base of a zoo to be built."""
    recipe = config.recipe
    return open_base(
        config.base,
        objective=recipe.objective,
        prompt=recipe.wording,
        dtype=dtype,
        device=config.device,
        label_targets=recipe.label_targets,
    )


class Job(ABC):
    """One piece of work that leaves a whole folder, or none; it can be pickled."""

    @abstractmethod
    def run(self, worker: WorkerContext) -> None:
        """Do the work.

        Raises:
            TaskError: a task's data cannot be used.
        """


@dataclass(frozen=True)
class TrainExpert(Job):
    """Train, score and write the expert of one task."""

    task: Task
    split: str

    def run(self, worker: WorkerContext) -> None:
        """Do the work."""
        begun, build, task = time.monotonic(), worker.build, self.task
        expert = train_expert(task, worker.base, _start_for(task, worker), build.manifest.recipe)
        card = Card.of(
            task,
            expert,
            build.manifest,
            split=self.split,
            seconds=round(time.monotonic() - begun, 1),
            dtype=str(next(worker.base.model.parameters()).dtype).removeprefix("torch."),
            versions={name: version(name) for name in ("loragen", "torch", "transformers")},
        )
        adapter, files = expert_files(expert, card)
        if build.config.score:
            files[CARD] = _scored(card, task, adapter, worker).to_yaml()
        adapter.save(build.config.out / EXPERTS / task.id, extra_files=files)


@dataclass(frozen=True)
class ScoreExpert(Job):
    """Score an expert that was trained without scores."""

    task: Task
    card: Card

    def run(self, worker: WorkerContext) -> None:
        """Do the work."""
        folder = worker.build.config.out / EXPERTS / self.task.id
        card = _scored(self.card, self.task, Lora.load(folder), worker)
        atomic_write(folder / CARD, card.to_yaml())


@dataclass(frozen=True)
class TrainFold(Job):
    """Train B of one fold over the zoo's frame, from zero, on the tasks that it may see."""

    number: int
    plan: FoldPlan
    tasks: tuple[Task, ...]

    def run(self, worker: WorkerContext) -> None:
        """Do the work; a fold that was interrupted goes on from its last checkpoint."""
        build, folder = worker.build, worker.build.config.out / FOLDS / str(self.number)
        recipe = build.manifest.folds
        assert recipe is not None
        worker.check_stop()  # a pool hands out work ahead, which cannot be taken back
        checkpoints = checkpoints_of(folder)
        if not (checkpoints / FOLD_PLAN).exists() or read_plan(checkpoints) != self.plan:
            shutil.rmtree(checkpoints, ignore_errors=True)  # its state may have seen tasks that it must not see now
            atomic_write(checkpoints / FOLD_PLAN, self.plan.to_yaml())
        trained, history = train_multitask(
            self.tasks,
            worker.base,
            worker.start.from_zero(),
            build.manifest.recipe,
            recipe,
            train_a=False,
            checkpoints=checkpoints,
            on_step=worker.check_stop,
        )
        write_fold(folder, Fold(self.plan, adapter_of(trained, worker.base)), history)
        shutil.rmtree(checkpoints)


def checkpoints_of(fold: Path) -> Path:
    """Folder of the state that the training of a fold is in."""
    return fold.with_name(f".{fold.name}.partial")


def _start_for(task: Task, worker: WorkerContext) -> Start:
    """Frame and start of one task's expert."""
    if worker.build.manifest.start != "folds":
        return worker.start
    folds = read_folds(worker.build.start_folds)
    unseen = [fold.adapter for fold in folds if task.id in fold.plan.far] or [fold.adapter for fold in folds]
    mean = weighted_sum(unseen, [1 / len(unseen)] * len(unseen))
    return Start(worker.start.lora_A, {site: mean.scaled_factors(site)[1] for site in worker.start.lora_B})


def _scored(card: Card, task: Task, adapter: Lora, worker: WorkerContext) -> Card:
    data = worker.base.prepare(task.load_test(), max_length=worker.build.manifest.recipe.score_length)
    scores = {"before": worker.base.score(data), "after": worker.base.score(data, adapter)}
    return card.model_copy(update=scores)
