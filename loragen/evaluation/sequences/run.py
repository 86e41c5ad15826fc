"""Runs a sequence: trains and updates generators strategy by strategy, scores what they generate, makes the report."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.bases.devices import choose_dtype
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.registry import row_of, strategy_of
from loragen.continual.update import update_generator
from loragen.evaluation.sequences.cells import Scoring
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.evaluation.sequences.moments import asked_with, write_zoo
from loragen.evaluation.sequences.report import ALONE, BASE, MERGED, SequenceReport, make_report, write_report
from loragen.files import atomic_write, sweep
from loragen.generation.pipeline import Pipeline
from loragen.generators.train import read_config, train_generator
from loragen.generators.trained import TrainConfig
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.sequence import merge_sequence
from loragen.tasks.task_set import Task
from loragen.training.threads import few_threads
from loragen.zoo.zoo import Zoo

SECONDS = "seconds.txt"
"""File of a generator for how long its update took."""


def evaluate_sequence(
    config: SequenceConfig | Path, progress: Progress = silent, *, overrides: Sequence[str] = ()
) -> SequenceReport:
    """Let groups of experts arrive, update a generator by each strategy after each, and write a report.

    An interrupted run goes on where it was: generators and cells that are there are kept.

    Args:
        config: settings, or a YAML file of them.
        progress: called with the stage, the cells done and their total.
        overrides: ``key.sub=value`` each, for a YAML file.

    Raises:
        ConfigError: the settings do not fit, an expert has one description alone, or another process writes there.
        TaskError: an expert's task is not in the task file, or its files cannot be used.
        ZooError: there is no such zoo or expert, or the zoo is packed.
        GeneratorError: a strategy cannot update this generator.
    """
    settings = config if isinstance(config, SequenceConfig) else SequenceConfig.from_yaml(config, overrides)
    with lock(settings.out):
        run = _Run.of(settings, progress)
        report = run.report()
        write_report(report)
        sweep(settings.out)
    return report


@dataclass(frozen=True, eq=False)
class _Run:
    """One sequence: its zoos, scores and generators."""

    config: SequenceConfig
    zoo: Zoo
    encoder: TextEncoder
    training: TrainConfig
    scoring: Scoring
    progress: Progress

    @classmethod
    def of(cls, config: SequenceConfig, progress: Progress) -> "_Run":
        training = read_config(config.generator)
        zoo = Zoo.open(config.zoo)
        for name in config.ids:
            asked_with(zoo, name)
        base = zoo.load_base(dtype=choose_dtype(config.dtype), device=config.device)
        return cls(config, zoo, TextEncoder.load(training.encoder), training, Scoring.open(config, zoo, base), progress)

    def report(self) -> SequenceReport:
        """Compute what is missing."""
        self._score(BASE, 0, lambda _task: None)
        self._alone()
        costs = {strategy: self._strategy(strategy) for strategy in self.config.strategies}
        if self.config.merged is not None:
            self._merged(self.config.merged)
        fingerprint = self.zoo.select(without=self.zoo.cards.keys() - set(self.config.ids)).fingerprint
        return make_report(self.config, fingerprint, self.scoring.known, costs)

    def _score(self, row: str, moment: int, adapter_for: Callable[[Task], Lora | None]) -> None:
        rows = 2 + len(self.config.strategies) + (self.config.merged is not None)
        total = rows * len(self.config.groups) * len(self.config.ids)
        with few_threads(self.scoring.base.number_of_parameters):
            for _ in self.scoring.cells(row, moment, adapter_for):
                self.progress("adapters", len(self.scoring.known), total)

    def _zoo(self, name: str, experts: Sequence[str]) -> Path:
        return write_zoo(self.zoo, experts, self.config.out / "zoos" / name)

    def _config(self, zoo: Path, out: Path) -> TrainConfig:
        return self.training.model_copy(update={"zoo": zoo, "out": out})

    def _generated(self, generator: Path, zoo: Path) -> Callable[[Task], Lora]:
        pipeline = Pipeline.open(str(generator), Zoo.open(zoo), self.encoder)

        def adapter_for(task: Task) -> Lora:
            (generation,) = pipeline.generate(Evidence(asked_with(self.zoo, task.id)), seed=0)
            return generation.adapter

        return adapter_for

    def _trained(self, zoo: Path, out: Path) -> Path:
        if not out.exists():
            train_generator(self._config(zoo, out))
        return out

    def _alone(self) -> None:
        """Generators of one group alone, and the one that all strategies begin with."""
        for moment, (name, group) in enumerate(self.config.groups.items()):
            if self.scoring.lacks(ALONE, moment):
                zoo = self._zoo(f"{name}-alone", group)
                out = self._trained(zoo, self.config.out / "generators" / ALONE / name)
                self._score(ALONE, moment, self._generated(out, zoo))

    def _strategy(self, strategy: str) -> tuple[float, int]:
        """Score a strategy at every moment; returns the seconds of all its updates, and the bytes kept at the end."""
        before, seconds = self.config.out / "generators" / ALONE / next(iter(self.config.groups)), 0.0
        self._trained(self._zoo(f"{next(iter(self.config.groups))}-alone", self.config.until(0)), before)
        for moment, name in enumerate(self.config.groups):
            zoo = self._zoo(f"until-{name}", self.config.until(moment))
            out = self.config.out / "generators" / strategy / name
            if moment == 0:
                out = before
            elif not out.exists():
                seconds += self._updated(strategy, before, zoo, out)
            else:
                seconds += _seconds_of(out)
            if self.scoring.lacks(strategy, moment):
                self._score(strategy, moment, self._generated(out, zoo))
            before = out
        return seconds, sum(path.stat().st_size for path in before.glob("*.safetensors")) + self._buffer(strategy)

    def _updated(self, strategy: str, before: Path, zoo: Path, out: Path) -> float:
        """Seconds of one update, which is written to its folder with them."""
        begun = time.monotonic()
        update_generator(self._config(zoo, out), strategy, start=before)
        seconds = round(time.monotonic() - begun, 1)
        atomic_write(out / SECONDS, f"{seconds}\n")
        return seconds

    def _buffer(self, strategy: str) -> int:
        """Bytes of old experts that a strategy keeps beside the generator: all of them, or its budget."""
        if row_of(strategy).needs != "experts":
            return 0
        old = self.config.until(len(self.config.groups) - 2)
        whole = sum((self.zoo.folder(name) / WEIGHTS_NAME).stat().st_size for name in old)
        settings = strategy_of(strategy, {})
        return whole if settings is None else min(whole, int(settings.model_dump()["budget"]))

    def _merged(self, recipe: ExpertRecipe) -> None:
        """One adapter that absorbs the tasks one by one, scored after each group."""
        last = {group[-1]: moment for moment, group in enumerate(self.config.groups.values())}
        if not any(self.scoring.lacks(MERGED, moment) for moment in last.values()):
            return
        tasks, base = [self.scoring.tasks[name] for name in self.config.ids], self.scoring.base
        with few_threads(base.number_of_parameters):
            for task, adapter in zip(tasks, merge_sequence(tasks, base, recipe), strict=True):
                if task.id in last:
                    self._score(MERGED, last[task.id], partial(_same, adapter))


def _same(adapter: Lora, _task: Task) -> Lora:
    return adapter


def _seconds_of(generator: Path) -> float:
    path = generator / SECONDS
    return float(path.read_text()) if path.is_file() else 0.0
