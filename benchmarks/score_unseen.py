"""Scores generators on tasks whose experts they never saw, from the descriptions alone; helps the other scripts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import Scores
from loragen.bases.tokenised import TaskData
from loragen.conditions.condition import Evidence
from loragen.generation import Pipeline
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task

TASKS = Path("configs/tasks/public.yaml")
MAIN = ("accuracy", "knn_accuracy")
"""The scores that methods are compared by."""


@dataclass(frozen=True)
class Row:
    """One adapter on one task."""

    task: str
    method: str
    seed: int
    scores: Scores


def score_unseen(
    tasks: Sequence[Task],
    pipelines: Mapping[str, Pipeline],
    base: Base,
    *,
    seeds: Sequence[int],
    max_length: int,
    fixed: Mapping[str, Callable[[Task], Lora | None]] | None = None,
    examples: Mapping[str, Callable[[Task], Examples]] | None = None,
    on_row: Callable[[Row], None] = lambda _row: None,
) -> list[Row]:
    """Score every generator on every task's test file, stochastic ones once a seed.

    Args:
        tasks: tasks to judge on; none of them may have served in training the generators.
        pipelines: the generators, by the name they have in the rows; each is told a task's first description.
        base: the base.
        seeds: random seeds; a generator that draws nothing at random is scored under the first alone.
        max_length: tokens of a text.
        fixed: further methods that take a task to an adapter, or to `None` for the bare base.
        examples: examples of the task that some of the generators are given beside the description, by method.
        on_row: called with each row as it comes.
    """
    rows = []
    for task in tasks:
        data = base.prepare(task.load_test(), max_length=max_length)

        def add(method: str, seed: int, adapter: Lora | None, task: Task = task, data: TaskData = data) -> None:
            rows.append(Row(task.id, method, seed, labelled(base.score(data, adapter))))
            on_row(rows[-1])

        for method, adapter_for in (fixed or {}).items():
            add(method, seeds[0], adapter_for(task))
        for method, pipeline in pipelines.items():
            evidence = Evidence(
                task.description, examples=examples[method](task) if examples and method in examples else None
            )
            for seed in seeds if pipeline.generator.is_stochastic else seeds[:1]:
                (generation,) = pipeline.generate(evidence, seed=seed)
                add(method, seed, generation.adapter)
    return rows


def labelled(scores: object) -> Scores:
    """Scores of a task that has labels, as all tasks of these benchmarks have."""
    assert isinstance(scores, Scores)
    return scores


def few_of(task: Task, shots: int, *, seed: int) -> Examples:
    """Some labelled training examples of a task, drawn at random whatever their class."""
    examples = task.load_train()
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(seed))
    return examples.subset(order[:shots])


def mean_scores(scores: Sequence[Scores]) -> dict[str, float]:
    """Means over tasks of the scores that methods are compared by, with four digits."""
    return {name: round(sum(getattr(own, name) for own in scores) / len(scores), 4) for name in MAIN}


def means(rows: Sequence[Row], score: str) -> dict[str, float]:
    """Mean of a score over tasks and seeds, by method."""
    methods = dict.fromkeys(row.method for row in rows)
    return {
        method: sum(values) / len(values)
        for method in methods
        if (values := [getattr(row.scores, score) for row in rows if row.method == method])
    }


def recovered_gain(score: float, base: float, oracle: float) -> float:
    """(score - base) / (oracle - base); NaN where the oracle gains nothing."""
    return (score - base) / (oracle - base) if oracle != base else float("nan")
