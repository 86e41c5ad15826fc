"""Labelled texts of several tasks as one task whose labels are those of all: texts that nothing tells the task of."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.errors import TaskError, shown
from loragen.tasks.examples import Examples


def union_labels(tasks: Sequence[Examples]) -> tuple[str, ...]:
    """The label names of all tasks, each once, in the order in which they are met."""
    return tuple(dict.fromkeys(name for task in tasks for name in task.label_names))


def with_union_labels(tasks: Sequence[Examples], names: Sequence[str]) -> tuple[Examples, ...]:
    """Each task's examples with their labels as positions among all tasks' labels; equal names are one label.

    Raises:
        TaskError: a task has no labelled texts, or some tasks have pairs of texts.
    """
    place = {name: at for at, name in enumerate(names)}
    made = []
    for number, task in enumerate(tasks, 1):
        if not task.labels or not task.label_names:
            raise TaskError(f"The texts of task {number} have no labels; give a table with the columns text and label.")
        labels = tuple(place[task.label_names[label]] for label in task.labels)
        made.append(replace(task, labels=labels, label_names=tuple(names)))
    return tuple(made)


def mixed(tasks: Sequence[Examples]) -> tuple[Examples, tuple[int, ...]]:
    """The texts of all tasks as one task with the labels of all, and the number of each text's task.

    Second texts are dropped where some tasks have none.

    Raises:
        TaskError: a task has no labelled texts.
    """
    alike = with_union_labels(tasks, union_labels(tasks))
    paired = all(task.pairs is not None for task in alike)
    whole = Examples(
        tuple(text for task in alike for text in task.texts),
        tuple(pair for task in alike for pair in task.pairs or ()) if paired else None,
        tuple(label for task in alike for label in task.labels or ()),
        alike[0].label_names,
    )
    return whole, tuple(number for number, task in enumerate(alike) for _ in task.texts)


def balanced(tasks: Sequence[Examples], most: int, *, rng: torch.Generator) -> tuple[Examples, ...]:
    """At most ``most`` examples of each task, drawn at random."""
    return tuple(task.subset(torch.randperm(len(task), generator=rng)[:most]) for task in tasks)


def batches(
    base: Base,
    tasks: Sequence[Examples],
    number: int,
    size: int,
    *,
    labels: str,
    max_length: int,
    rng: torch.Generator,
) -> list[TaskData]:
    """Batches to train a gate on.

    Args:
        base: reads the texts.
        tasks: labelled texts of each.
        number: of batches.
        size: texts of a batch.
        labels: ``union``, batches of all tasks' texts that choose among all their labels; or ``own``, batches of one
            task each.
        max_length: tokens of a text.
        rng: draws them.

    Raises:
        TaskError: a task has no labelled texts, or fewer than a batch takes.
    """
    if labels == "own":
        data = [base.prepare(task, max_length=max_length) for task in tasks]
        drawn = torch.randint(len(data), (number,), generator=rng).tolist()
        return [next(data[at].batches(1, size, rng=rng)) for at in drawn]
    whole, _ = mixed(tasks)
    if len(whole) < size:
        raise TaskError(f"There are {len(whole)} labelled texts, and a batch takes {shown(size)}; give more of them.")
    return list(base.prepare(whole, max_length=max_length).batches(number, size, rng=rng))
