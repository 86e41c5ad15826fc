"""Tasks of a zoo of one's own from one file of labelled texts: split by task, and into train and test."""

import re
from collections.abc import Sequence

from loragen.errors import TaskError, shown
from loragen.escaping import csv_text
from loragen.tasks.columns import Row, optional_text, text
from loragen.tasks.labels import read_labels
from loragen.tasks.source import TaskSource
from loragen.tasks.tables import Table
from loragen.tasks.task_set import Task

_PARTS = ("train", "test")
_FEWEST = 10
"""Training examples of a task."""
_LONGEST_ID = 80
"""Characters of a task's id that is made of its name."""
_TESTED = 5
"""One text of a label in so many is left for testing, where no column says which."""


def split_by_task(table: Table) -> tuple[list[Task], dict[str, str]]:
    """The tasks of a file of labelled texts, a row a text, and the files of their train and test texts by name.

    Raises:
        TaskError: a text or a label is missing or cannot be used, or a task has too few.
        ConfigError: the description of a task does not fit.
    """
    grouped: dict[str, list[Row]] = {}
    for row in table.rows:
        grouped.setdefault(text(row, "task").strip(), []).append(row)
    tasks: list[Task] = []
    files: dict[str, str] = {}
    for name, own in grouped.items():
        task_id = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:_LONGEST_ID] or f"task_{len(tasks) + 1}"
        rows, labels = _labelled(Table(table.name, tuple(own), table.class_names), name)
        parts = {part: [row for row, into in zip(rows, _parts(rows), strict=True) if into == part] for part in _PARTS}
        check_number(task_id, len(parts["train"]), table.name)
        source = {part: f"data/{task_id}.{part}.csv" for part in _PARTS if parts[part]}
        files |= {file: _csv(parts[part]) for part, file in source.items()}
        pair = {"text_pair": "text_pair"} if "text_pair" in own[0][1] else {}
        task = Task.checked(
            {
                "id": task_id,
                "description": _description(name, own, labels),
                "labels": labels,
                "source": TaskSource(**source, **pair),
            },
            source=own[0][0],
        )
        tasks.append(task)
    return tasks, files


def _labelled(table: Table, task: str) -> tuple[list[Row], tuple[str, ...]]:
    """The rows of a task with the names of their labels in the column ``label``, and all names."""
    for row in table.rows:
        text(row, "text")
    read = read_labels(table, "label")
    if read is None:
        raise TaskError(f"{table.rows[0][0]}: the task {task} has no labels; fill in its column 'label'.")
    positions, names = read
    if len(set(positions)) < 2:
        raise TaskError(
            f"{table.name} has 1 labels for the task {task}; at least two are wanted, in its column 'label'."
        )
    labelled = zip(table.rows, positions, strict=True)
    return [(place, cells | {"label": names[position]}) for (place, cells), position in labelled], names


def _parts(rows: Sequence[Row]) -> list[str]:
    """The part of each row: that of its column ``split``, or else every fifth text of a label for testing."""
    if "split" in rows[0][1]:
        for row in rows:
            if (part := row[1].get("split")) not in _PARTS:
                raise TaskError(f"{row[0]}: the column 'split' holds {shown(part)}; train or test was wanted.")
        return [row[1]["split"] for row in rows]
    seen: dict[str, int] = {}
    parts = []
    for row in rows:
        label = row[1]["label"]
        seen[label] = seen.get(label, 0) + 1
        parts.append("test" if seen[label] % _TESTED == 0 else "train")
    return parts


def _description(name: str, rows: Sequence[Row], labels: Sequence[str]) -> str:
    told = next(filter(None, (optional_text(row, "description") for row in rows)), None)
    return told if told else f"{re.sub(r'[_.-]+', ' ', name).strip().capitalize()}: {', '.join(labels)}."


def _csv(rows: Sequence[Row]) -> str:
    columns = [name for name in ("text", "text_pair", "label") if name in rows[0][1]]
    return csv_text([columns, *([optional_text(row, name) for name in columns] for row in rows)])


def check_number(task_id: str, number: int, place: str) -> None:
    """Refuse a task of too few training texts.

    Raises:
        TaskError: there are fewer than ten.
    """
    if number < _FEWEST:
        raise TaskError(f"{place} has {number} training texts for the task {task_id}; at least {_FEWEST} are wanted.")
