"""The work of a comparison of recipes: which cells there are, and the training and scoring of one."""

import hashlib
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, final

import torch
from pydantic import ValidationError

from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.bases.open import open_base
from loragen.bases.scores import AnyScores
from loragen.bases.text_encoder import with_label_targets
from loragen.bases.tokenised import TaskData
from loragen.bench.cells import BenchCell, Key
from loragen.bench.config import RecipeBenchConfig
from loragen.errors import ConfigError
from loragen.evaluation.workspace import shuffled
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.train import train_expert
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.training.threads import few_threads


@final
@dataclass(frozen=True)
class Planned:
    """A cell to be: which recipe with which rate and seed, on which task."""

    label: str
    recipe: ExpertRecipe
    """With the learning rate and the seed of the cell."""
    task: Task
    conditions: str
    """See `BenchCell`."""

    @property
    def key(self) -> Key:
        """Key of the cell."""
        return self.conditions, self.task.id, self.recipe.learning_rate, self.recipe.seed


@final
@dataclass(frozen=True, eq=False)
class Workbench:
    """The base and the tasks of a comparison, and all of its cells."""

    config: RecipeBenchConfig
    base: Base
    plan: tuple[Planned, ...]
    _tests: dict[tuple[str, int], TaskData] = field(default_factory=dict)
    """(Task, tokens of a text) → its test texts."""

    @classmethod
    def open(cls, config: RecipeBenchConfig) -> "Workbench":
        """Load the base and read the tasks.

        Raises:
            ConfigError: there is no such base, or some tasks have labels and some have not.
            TaskError: there is no such task, or its files cannot be used.
        """
        task_set = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
        tasks = [task_set[name] for name in config.ids]
        if len({bool(task.labels) for task in tasks}) > 1:
            raise ConfigError("Some of the tasks have labels and some have none; compare recipes on one kind at once.")
        first = config.recipes[0]
        base = open_base(
            config.base,
            objective=first.objective,
            prompt=first.wording,
            dtype=choose_dtype(config.dtype),
            device=config.device,
        )
        return cls(config, base, tuple(_plan(config, base, tasks)))

    def compute(self, planned: Planned) -> BenchCell:
        """Train the expert of a cell and score it.

        Raises:
            TaskError: a task's files cannot be used.
        """
        begun = time.monotonic()
        with few_threads(self.base.number_of_parameters):
            facts = self._facts(planned)
        recipe = planned.recipe
        return BenchCell(
            recipe=recipe.name,
            conditions=planned.conditions,
            task=planned.task.id,
            learning_rate=recipe.learning_rate,
            seed=recipe.seed,
            seconds=round(time.monotonic() - begun, 3),
            **facts,
        )

    def _facts(self, planned: Planned) -> dict[str, Any]:
        recipe, task = planned.recipe, planned.task
        rng = torch.Generator().manual_seed(recipe.seed)
        start = Start.random(self.base.sites(recipe.target_modules), recipe.r, rng=rng)
        try:
            expert = train_expert(task, self.base, start, recipe)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined] # a decomposition of numbers that are not finite
            return {}
        ranks = [len(a) for a in expert.lora_A.values()]
        loss = expert.held_out_losses[expert.steps]
        facts: dict[str, Any] = {
            "steps": expert.steps,
            "rank": round(sum(ranks) / len(ranks), 3),
            "parameters": sum(a.numel() for part in (expert.lora_A, expert.mean) for a in part.values()),
        }
        if not math.isfinite(loss) or not _is_finite(expert):
            return facts
        return facts | {"held_out_loss": loss, "scores": self._scores(expert, task, recipe)}

    def _scores(self, expert: Expert, task: Task, recipe: ExpertRecipe) -> AnyScores | None:
        data, base = self.test_data(task, recipe.score_length), with_label_targets(self.base, recipe.label_targets)
        try:
            with base.using({site: (expert.lora_A[site], b) for site, b in expert.mean.items()}):
                return base.score(data)
        except ValidationError:  # a score that is not finite
            return None

    def test_data(self, task: Task, max_length: int) -> TaskData:
        """The test texts of a task that are scored: drawn once, the same for all cells."""
        key = task.id, max_length
        if key not in self._tests:
            prepared = self.base.prepare(shuffled(task), max_length=max_length)
            self._tests[key] = prepared.first(self.config.test_texts)
        return self._tests[key]


def _plan(config: RecipeBenchConfig, base: Base, tasks: Sequence[Task]) -> list[Planned]:
    """All cells, a task after the other; rates change fastest, so that parts get about as much work of each recipe."""
    plan = []
    for task in tasks:
        files = _digest([_content(task.load_train()), _content(task.load_test())])
        conditions = {
            label: _digest([_settings(recipe), base.fingerprint, _dtype(base), config.test_texts, files])
            for label, recipe in config.labelled.items()
        }
        plan += [
            Planned(label, recipe.model_copy(update={"learning_rate": rate, "seed": seed}), task, conditions[label])
            for seed in config.seeds
            for label, recipe in config.labelled.items()
            for rate in config.learning_rates
        ]
    return plan


def _settings(recipe: ExpertRecipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"learning_rate", "seed"})


def _content(examples: Examples) -> list[Any]:
    images = [str(image) for image in examples.images or ()]
    return [examples.texts, examples.pairs, examples.labels, examples.label_names, examples.completions, images]


def _dtype(base: Base) -> str:
    return str(next(base.model.parameters()).dtype).removeprefix("torch.")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _is_finite(expert: Expert) -> bool:
    return all(bool(t.isfinite().all()) for part in (expert.lora_A, expert.mean) for t in part.values())
