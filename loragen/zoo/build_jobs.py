"""Jobs of a build, an expert or a fold each: independent of one another, so that any executor can run them anywhere.

A job's work gives files, as bytes, which can travel; the process of the build alone writes them into the zoo.
"""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.bases.open import open_base
from loragen.files import atomic_write, write_folder
from loragen.recipes.expert import Start
from loragen.recipes.multitask import train_multitask
from loragen.recipes.train import train_expert
from loragen.tasks.task_set import Task
from loragen.training.threads import few_threads
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_start import adapter_of
from loragen.zoo.card import CARD, EXPERTS, Card, Manifest, expert_files
from loragen.zoo.folds import FOLD_PLAN, FOLDS, Fold, FoldPlan, fold_files, read_folds, read_plan
from loragen.zoo.start import read_start

Files = Mapping[str, str | bytes]
"""Contents of files by name."""


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
class Beginnings:
    """Everything trained before, that jobs begin with; it can be pickled."""

    start: Start
    folds: tuple[Fold, ...]
    """Those that are there by now; empty where experts do not begin at folds."""

    @classmethod
    def read(cls, build: BuildContext) -> "Beginnings":
        """Read the zoo's frame and start, and the folds that its experts begin at.

        Raises:
            ZooError: one of them is missing or damaged.
        """
        folds = read_folds(build.start_folds) if build.manifest.start == "folds" else ()
        return cls(read_start(build.config.out), folds)

    def of(self, task: Task) -> Start:
        """Frame and start of one task's expert."""
        if not self.folds:
            return self.start
        unseen = [fold.adapter for fold in self.folds if task.id in fold.plan.far]
        unseen = unseen or [fold.adapter for fold in self.folds]
        mean = weighted_sum(unseen, [1 / len(unseen)] * len(unseen))
        return Start(self.start.lora_A, {site: mean.scaled_factors(site)[1] for site in self.start.lora_B})


@dataclass(frozen=True)
class WorkerContext:
    """Everything that a process which runs jobs keeps between them."""

    build: BuildContext
    base: Base
    beginnings: Beginnings
    stop: Event | None = None
    """Set when the build ends before its time: a fold, which takes long, then ends at its next step. None where an
    interruption reaches the work at once: in the process of the build itself, and in workers that are ended with it."""
    is_remote: bool = False
    """True on another machine, which has no folder of the zoo."""

    @classmethod
    def open(cls, build: BuildContext, stop: Event | None = None) -> "WorkerContext":
        """Load the base, and from the zoo's folder what jobs begin with."""
        return cls(build, open_base_of(build.config, build.dtype), Beginnings.read(build), stop)

    def run(self, job: "Job") -> Files:
        """Run a job, over a small base with one thread."""
        with few_threads(self.base.number_of_parameters):
            return job.run(self)

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
    """One piece of work that gives files of one folder of the zoo; it can be pickled."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What it makes, for messages."""

    @abstractmethod
    def run(self, worker: WorkerContext) -> Files:
        """Do the work, in any process.

        Raises:
            TaskError: a task's data cannot be used.
        """

    @abstractmethod
    def write(self, zoo: Path, files: Files) -> None:
        """Write what the work gave, whole or not at all; in the process of the build."""

    @abstractmethod
    def carrying(self, zoo: Path) -> "Job":
        """The same job with all that it reads in the zoo's folder, to run where that is not."""


@dataclass(frozen=True)
class TrainExpert(Job):
    """Train, score and write the expert of one task."""

    task: Task
    split: str

    @property
    def name(self) -> str:
        """What it makes."""
        return f"the expert {self.task.id}"

    def run(self, worker: WorkerContext) -> Files:
        """Do the work."""
        _, adapter, files = self.made(worker)
        return {**adapter.files(), **files}

    def made(self, worker: WorkerContext) -> tuple[Card, Lora, dict[str, str | bytes]]:
        """The expert's card, its adapter, and the other files of its folder, the card among them."""
        begun, build, task = time.monotonic(), worker.build, self.task
        expert = train_expert(task, worker.base, worker.beginnings.of(task), build.manifest.recipe)
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
            card = _scored(card, task, adapter, worker)
            files[CARD] = card.to_yaml()
        return card, adapter, files

    def write(self, zoo: Path, files: Files) -> None:
        """Write the expert's folder."""
        write_folder(zoo / EXPERTS / self.task.id, files)

    def carrying(self, zoo: Path) -> "Job":
        """The same job."""
        return self


@dataclass(frozen=True)
class ScoreExpert(Job):
    """Score an expert that was trained without scores."""

    task: Task
    card: Card
    adapter: Lora | None = None
    """None reads it from the zoo's folder."""

    @property
    def name(self) -> str:
        """What it makes."""
        return f"scores of the expert {self.task.id}"

    def run(self, worker: WorkerContext) -> Files:
        """Do the work."""
        adapter = self.adapter or self._read(worker.build.config.out)
        return {CARD: _scored(self.card, self.task, adapter, worker).to_yaml()}

    def write(self, zoo: Path, files: Files) -> None:
        """Replace the expert's card."""
        atomic_write(zoo / EXPERTS / self.task.id / CARD, files[CARD])

    def carrying(self, zoo: Path) -> "Job":
        """The same job with the adapter."""
        return replace(self, adapter=self._read(zoo))

    def _read(self, zoo: Path) -> Lora:
        return Lora.load(zoo / EXPERTS / self.task.id)


@dataclass(frozen=True)
class TrainFold(Job):
    """Train B of one fold over the zoo's frame, from zero, on the tasks that it may see."""

    number: int
    plan: FoldPlan
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """What it makes."""
        return f"fold {self.number}"

    def run(self, worker: WorkerContext) -> Files:
        """Do the work; beside the zoo's folder, a fold that was interrupted goes on from its last checkpoint."""
        build = worker.build
        recipe = build.manifest.folds
        assert recipe is not None
        worker.check_stop()  # a pool hands out work ahead, which cannot be taken back
        trained, history = train_multitask(
            self.tasks,
            worker.base,
            worker.beginnings.start.from_zero(),
            build.manifest.recipe,
            recipe,
            train_a=False,
            checkpoints=None if worker.is_remote else self._checkpoints(build.config.out),
            on_step=worker.check_stop,
        )
        return fold_files(Fold(self.plan, adapter_of(trained, worker.base)), history)

    def write(self, zoo: Path, files: Files) -> None:
        """Write the fold's folder, and remove its checkpoints."""
        folder = zoo / FOLDS / str(self.number)
        write_folder(folder, files)
        shutil.rmtree(checkpoints_of(folder), ignore_errors=True)

    def carrying(self, zoo: Path) -> "Job":
        """The same job."""
        return self

    def _checkpoints(self, zoo: Path) -> Path:
        """The folder of checkpoints, cleared of those of another plan."""
        checkpoints = checkpoints_of(zoo / FOLDS / str(self.number))
        if not (checkpoints / FOLD_PLAN).exists() or read_plan(checkpoints) != self.plan:
            shutil.rmtree(checkpoints, ignore_errors=True)  # its state may have seen tasks that it must not see now
            atomic_write(checkpoints / FOLD_PLAN, self.plan.to_yaml())
        return checkpoints


def checkpoints_of(fold: Path) -> Path:
    """Folder of the state that the training of a fold is in."""
    return fold.with_name(f".{fold.name}.partial")


def _scored(card: Card, task: Task, adapter: Lora, worker: WorkerContext) -> Card:
    data = worker.base.prepare(task.load_test(), max_length=worker.build.manifest.recipe.score_length)
    scores = {"before": worker.base.score(data), "after": worker.base.score(data, adapter)}
    return card.model_copy(update=scores)
