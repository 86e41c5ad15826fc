"""Scores generators on tasks whose experts they never saw, from the descriptions alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import Scores, score_task
from loragen.bases.tokenised import TaskData
from loragen.conditions.condition import Conditioner
from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.base import Generator
from loragen.tasks.examples import Support
from loragen.tasks.task_set import Task


@dataclass(frozen=True)
class Row:
    """One adapter on one task."""

    task: str
    method: str
    seed: int
    scores: Scores


def score_unseen(
    tasks: Sequence[Task],
    generators: Mapping[str, Generator],
    base: Base,
    encoder: TextEncoder,
    *,
    seeds: Sequence[int],
    max_length: int,
    fixed: Mapping[str, Callable[[Task], Lora | None]] | None = None,
    supports: Mapping[str, Callable[[Task], Support]] | None = None,
    on_row: Callable[[Row], None] = lambda _row: None,
) -> list[Row]:
    """Score every generator on every task's test file, stochastic ones once a seed.

    Args:
        tasks: tasks to judge on; none of them may have served in training the generators.
        generators: by the name they have in the rows.
        base: the base.
        encoder: embeds the description of each task, the first alone.
        seeds: random seeds; a generator that draws nothing at random is scored under the first alone.
        max_length: tokens of a text.
        fixed: further methods that take a task to an adapter, or to `None` for the bare base.
        supports: examples of the task that some of the generators are given beside the description, by method.
        on_row: called with each row as it comes.
    """
    rows = []
    conditioners = {method: Conditioner.of(generator, encoder) for method, generator in generators.items()}
    for task in tasks:
        data = TaskData.of(task, task.load_test(), base, max_length=max_length)

        def add(method: str, seed: int, adapter: Lora | None, task: Task = task, data: TaskData = data) -> None:
            rows.append(Row(task.id, method, seed, score_task(base, adapter, data)))
            on_row(rows[-1])

        for method, adapter_for in (fixed or {}).items():
            add(method, seeds[0], adapter_for(task))
        for method, generator in generators.items():
            support = supports[method](task) if supports and method in supports else None
            condition = conditioners[method].condition(task.description, support=support)
            for seed in seeds if generator.is_stochastic else seeds[:1]:
                rng = torch.Generator().manual_seed(seed)
                (generation,) = generator.generate(condition, rng=rng)
                add(method, seed, generation.adapter)
    return rows


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
