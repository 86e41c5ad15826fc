"""One adapter on one's own labelled data, beside the base and what a zoo gives without training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import Scores, knn_predictions, read_task, scores_of
from loragen.bases.tokenised import Readout, TaskData
from loragen.conditions.condition import Conditioner
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import read_yaml
from loragen.errors import ConfigError, TaskError
from loragen.evaluation.statistics import Interval, difference_interval
from loragen.generators.registry import open_generator
from loragen.tasks.examples import Support
from loragen.tasks.task_set import Task, TaskSource
from loragen.zoo.zoo import Zoo

ADAPTER, BASE = "this adapter", "base"


@dataclass(frozen=True)
class Judged:
    """A method's scores, and how far the adapter in question is above it, with intervals over the texts."""

    method: str
    scores: Scores
    above: Interval | None
    """Label-text accuracy of the adapter minus this method's; `None` for the adapter itself."""
    knn_above: Interval | None


def task_from_file(path: Path, description: str) -> Task:
    """A task whose test file is one's own data; its labels are those that occur, in the order in which they do.

    Raises:
        TaskError: the file cannot be read, or has no labels, or fewer than two.
    """
    support = Support.from_file(path)
    if support.labels is None:
        raise TaskError(f"{path} has no column 'label'; scores need the true label of every text.")
    labels = tuple(dict.fromkeys(support.labels))
    if len(labels) < 2:
        raise TaskError(f"{path} holds one label alone, {labels[0]!r}; at least two are wanted.")
    pair = "text_pair" if support.pairs is not None else None
    return Task(id="data", description=description, labels=labels, source=TaskSource(test=str(path), text_pair=pair))


def description_of(folder: Path) -> str | None:
    """What a generated adapter was asked for, as its card says; `None` without a card."""
    try:
        found = read_yaml(folder / "card.yaml").get("description")
    except ConfigError:
        return None
    return found if isinstance(found, str) and found.strip() else None


def judge(
    adapter: Lora,
    task: Task,
    base: Base,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    is_described: bool,
    max_length: int = 128,
) -> list[Judged]:
    """Score base, zoo methods and the adapter on a task's test file.

    Without a description in words (``is_described``) the methods that search by it are left out.

    Raises:
        ConfigError: the zoo is of another base.
    """
    if zoo.manifest.base_hash not in ("", base.fingerprint):
        raise ConfigError(
            f"The zoo {zoo.root} adapts {zoo.manifest.base} ({zoo.manifest.base_hash[:12]}), the adapter one of the "
            f"weights {base.fingerprint[:12]}; name a zoo of that base with --zoo."
        )
    data = TaskData.of(task, task.load_test(), base, max_length=max_length)
    adapters: dict[str, Lora | None] = {BASE: None}
    for name in ("mean", "nearest", "topk") if is_described else ("mean",):
        generator = open_generator(name, zoo, encoder)
        condition = Conditioner.of(generator, encoder).condition(task.description)
        adapters[name] = generator.generate(condition, rng=torch.Generator().manual_seed(0))[0].adapter
    adapters[ADAPTER] = adapter
    read = {name: read_task(base, made, data) for name, made in adapters.items()}
    right = {name: _right(values) for name, values in read.items()}
    return [_judged(name, values, right) for name, values in read.items()]


def _judged(name: str, values: Readout, right: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Judged:
    above = [
        None if name == ADAPTER else difference_interval(own, other, rng=np.random.default_rng(0))
        for own, other in zip(right[ADAPTER], right[name], strict=True)
    ]
    return Judged(name, scores_of(values, clustering=True), above[0], above[1])


def _right(values: Readout) -> tuple[np.ndarray, np.ndarray]:
    """Whether each text is classified right, by label texts and by neighbours, each (n, 1)."""
    by_label = values.logits.argmax(1) == values.targets
    by_neighbours = knn_predictions(values.texts, values.targets) == values.targets
    return by_label.double().numpy()[:, None], by_neighbours.double().numpy()[:, None]
