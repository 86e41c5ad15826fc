"""Experts by any recipe on any task of the public file, each at its best rate, kept once made: for `recipes.py`.

The checks of the papers' cards want their tasks (TREC, Subj, CR), which are test tasks here: other tasks of the same
kind, of those that experts or validation have, stand in for them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, LabelTargets
from loragen.bases.open import open_base
from loragen.bases.scores import Scores
from loragen.bases.text_encoder import with_label_targets
from loragen.evaluation.workspace import shuffled
from loragen.recipes.expert import Start
from loragen.recipes.registry import recipe_from
from loragen.recipes.train import train_expert
from loragen.tasks.task_set import Task, TaskSet
from loragen.training.threads import few_threads

QUESTION, OPINION, REVIEW, BANK = "phone_question_type", "phrase_polarity", "sentence_amazon", "banking77_transfers"
EMOTION, INTENTS = "tweet_emotion", "clinc_banking"
TASKS, MADE = Path("configs/tasks/public.yaml"), Path("runs/recipes")
BASE = "sentence-transformers/all-MiniLM-L6-v2"
COMMON: dict[str, Any] = {"steps": 60, "batch_size": 32, "r": 4, "choices": 3}
TEXTS = 400
"""Test texts that an expert is scored on, the first in random order."""
RATES = (3e-3, 1e-2, 3e-2)


@dataclass(frozen=True, eq=False)
class Made:
    """One expert, what it cost, and what it is worth."""

    adapter: Lora
    settings: Mapping[str, Any]
    losses: Mapping[int, float]
    """Number of steps → loss on the held-out slice."""
    accuracy: float
    """Label-text accuracy on test texts, of 1."""
    rank: float
    """Mean over the sites."""
    seconds: float

    @property
    def loss(self) -> float:
        """On the held-out slice, at the length that was chosen."""
        return min(self.losses.values())


@dataclass(frozen=True, eq=False)
class Lab:
    """A base and tasks."""

    @cached_property
    def base(self) -> Base:
        """MiniLM in float32."""
        return open_base(BASE, objective="label_text")

    @cached_property
    def tasks(self) -> TaskSet:
        """The public tasks."""
        return TaskSet.from_yaml(TASKS)

    def accuracy(self, task: Task, adapter: Lora | None, label_targets: LabelTargets = "moving") -> float:
        """Label-text accuracy on the first test texts."""
        data = self.base.prepare(shuffled(task), max_length=128).first(TEXTS)
        scores = with_label_targets(self.base, label_targets).score(data, adapter)
        assert isinstance(scores, Scores)
        return scores.accuracy

    def made(self, task_id: str, recipe: Mapping[str, Any], start: Start | None = None, tag: str = "") -> Made:
        """The expert of one recipe on one task; ``start`` in place of a random one has a ``tag`` that names it."""
        settings = COMMON | dict(recipe)
        name = hashlib.sha256(json.dumps([task_id, settings, tag], sort_keys=True).encode()).hexdigest()[:16]
        folder, task = MADE / name, self.tasks[task_id]
        if not folder.exists():
            self._make(folder, task, settings, start)
        facts = json.loads((folder / "facts.json").read_text())
        losses = {int(steps): loss for steps, loss in facts.pop("losses").items()}
        return Made(Lora.load(folder), settings, losses, **facts)

    def _make(self, folder: Path, task: Task, settings: dict[str, Any], start: Start | None) -> None:
        import time

        parsed = recipe_from(settings)
        rng = torch.Generator().manual_seed(parsed.seed)
        begin = start or Start.random(self.base.sites(parsed.target_modules), parsed.r, rng=rng)
        begun = time.monotonic()
        with few_threads(self.base.number_of_parameters):
            expert = train_expert(task, self.base, begin, parsed)
        seconds = time.monotonic() - begun
        adapter = Lora.from_factors(
            expert.lora_A, expert.mean, base_model_name_or_path=BASE, task_type=expert.task_type
        )
        facts = {
            "losses": {steps: round(loss, 5) for steps, loss in expert.held_out_losses.items()},
            "accuracy": round(self.accuracy(task, adapter, parsed.label_targets), 4),
            "rank": sum(site.r for site in adapter.spec.sites) / len(adapter.sites),
            "seconds": round(seconds, 1),
        }
        adapter.save(folder, extra_files={"facts.json": json.dumps(facts)})

    def best(self, task_id: str, recipe: Mapping[str, Any], rates: Sequence[float] = RATES) -> Made:
        """That of several learning rates whose loss on the held-out slice is least; test texts choose nothing."""
        return min((self.made(task_id, recipe | {"learning_rate": rate}) for rate in rates), key=lambda made: made.loss)

    def mean_of(self, ids: Sequence[str], recipe: Mapping[str, Any], rates: Sequence[float] = RATES) -> float:
        """Mean accuracy of the best over tasks."""
        return sum(self.best(task_id, recipe, rates).accuracy for task_id in ids) / len(ids)
