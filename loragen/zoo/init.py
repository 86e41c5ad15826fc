"""Configs of a zoo of one's own, written from a table of tasks or from one file of labelled texts."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from loragen.bases.hub import EMBEDDED_MODEL
from loragen.config import dump_yaml
from loragen.errors import ConfigError, TaskError
from loragen.files import atomic_write, sweep
from loragen.tasks.examples import Examples
from loragen.tasks.source import TaskSource
from loragen.tasks.tables import Row, cell, read_rows, text
from loragen.tasks.task_set import TABLE_FIELDS, Task, task_of_row

TABLE = ("id", "description", "train")
"""Columns that a table of tasks must have, a row a task; labels, test and other fields of a task may follow."""
TEXTS = ("task", "text", "label")
"""Columns that a file of labelled texts must have, a row a text; description, split and text_pair may follow."""
CONFIGS = ("tasks.yaml", "zoo.yaml", "train-sg.yaml")

_BASE = f"sentence-transformers/{EMBEDDED_MODEL}"
_FEWEST = 10
"""Training examples of a task."""
_TESTED = 5
"""One text of a label in so many is left for testing, where no column says which."""


def init_zoo(table: Path, out: Path, *, force: bool = False) -> list[Path]:
    """Write the configs of a zoo: ``tasks.yaml``, ``zoo.yaml`` and ``train-sg.yaml``, for MiniLM and small budgets.

    The table has a row a task (columns ``id``, ``description``, ``train`` and, if any, ``labels``, separated by ``|``,
    and ``test``; files are relative to the table) or a row a text (``task``, ``text``, ``label`` and, if any,
    ``description`` and ``split``, train or test). The texts are then also written to ``out``, a file a task and part.
    All data is read and checked before anything is written. Files that are there already with what would be written, as
    an interrupted run leaves them, are kept.

    Args:
        table: a CSV, JSONL, JSON or Parquet file.
        out: folder of the configs; the zoo itself will be built in ``out/zoo``.
        force: replace files that are there.

    Returns:
        The configs.

    Raises:
        ConfigError: other files of these names are there, or a row does not fit a task.
        TaskError: the table has other columns, or the data of a task cannot be used.
    """
    configs = [out / name for name in CONFIGS]
    root, tasks, texts = _read(table, out)
    contents = (
        _tasks_yaml(tasks, root, table),
        _zoo_yaml(out, len(tasks), is_scored=_all_have_tests(tasks, table)),
        _train_yaml(out, len(tasks)),
    )
    files = {out / name: content for name, content in texts.items()} | dict(zip(configs, contents, strict=True))
    if not force and (there := [path for path, content in files.items() if _holds_other(path, content)]):
        raise ConfigError(f"{there[0]} is there already; name another folder with --out, or remove it first.")
    for path, content in files.items():
        atomic_write(path, content)
    sweep(out)
    return configs


def _holds_other(path: Path, content: str) -> bool:
    return path.exists() and (not path.is_file() or path.read_bytes() != content.encode())


def _read(table: Path, out: Path) -> tuple[str, list[Task], dict[str, str]]:
    """The folder of all files relative to ``out``, the tasks, and files of texts to be written by name."""
    rows = read_rows(table)
    met = set(rows[0][1]) if rows else set()
    if met >= set(TABLE):
        root, tasks = _relative(table.parent, out), [_task_of_row(row, table.parent) for row in rows]
        texts: dict[str, str] = {}
    elif met >= set(TEXTS):
        root, (tasks, texts) = ".", _split_by_task(rows)
    else:
        columns = f"has the columns {', '.join(rows[0][1])}" if rows else "has no rows"
        raise TaskError(
            f"{table} {columns}; wanted are {', '.join(TABLE)} (and labels, test), a row a task, or {', '.join(TEXTS)} "
            "(and description, split), a row a text."
        )
    counts = Counter(task.id for task in tasks)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise TaskError(f"{table} names tasks more than once: {', '.join(repeated)}; give every task an id of its own.")
    return root, tasks, texts


# --- a row a task ---


def _task_of_row(row: Row, folder: Path) -> Task:
    """A task of the table, its data read and checked, and its labels taken from there where the table has none."""
    task = task_of_row(row, {name: name for name in TABLE_FIELDS if name in row[1]})
    train = folder / (task.source.train or "")
    if not task.labels:
        task = _relabelled(task, Examples.from_file(train).label_names, str(train))
    if any("text_pair" in cells for _, cells in read_rows(train)):
        task = task.model_copy(update={"source": task.source.model_copy(update={"text_pair": "text_pair"})})
    located = task.model_copy(update={"source": task.source.located(folder, task.id)})
    _check_number(task.id, len(located.load_train()), str(train))
    if task.source.test:
        located.load_test()
    return task


def _relabelled(task: Task, labels: Sequence[str], place: str) -> Task:
    if len(labels) < 2:
        raise TaskError(
            f"{place} has {len(labels)} labels for the task {task.id}; at least two are wanted, in its column 'label'."
        )
    return task.model_copy(update={"labels": tuple(labels)})


def _check_number(task_id: str, number: int, place: str) -> None:
    if number < _FEWEST:
        raise TaskError(f"{place} has {number} training texts for the task {task_id}; at least {_FEWEST} are wanted.")


def _all_have_tests(tasks: Sequence[Task], table: Path) -> bool:
    without = [task.id for task in tasks if not task.source.test]
    if without and len(without) < len(tasks):
        raise TaskError(
            f"{table} names a test file for some tasks, but none for {', '.join(without[:8])}; name one for each, of "
            "labelled texts that are not in its train file, or for none."
        )
    return not without


# --- a row a text ---


def _split_by_task(rows: Sequence[Row]) -> tuple[list[Task], dict[str, str]]:
    """The tasks of a file of labelled texts, and the files of their train and test texts by name."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(text(row, "task").strip(), []).append(row)
    tasks: list[Task] = []
    files: dict[str, str] = {}
    for name, own in grouped.items():
        task_id = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-") or f"task_{len(tasks) + 1}"
        parts = {part: [row for row, into in zip(own, _parts(own), strict=True) if into == part] for part in _PARTS}
        _check_number(task_id, len(parts["train"]), own[0][0].rpartition(":")[0] or own[0][0])
        source = {part: f"data/{task_id}.{part}.csv" for part in _PARTS if parts[part]}
        files |= {file: _csv(parts[part]) for part, file in source.items()}
        labels = tuple(dict.fromkeys(text(row, "label").strip() for row in own))
        pair = {"text_pair": "text_pair"} if "text_pair" in own[0][1] else {}
        task = Task(id=task_id, description=_description(name, own, labels), source=TaskSource(**source, **pair))
        tasks.append(_relabelled(task, labels, own[0][0]))
    return tasks, files


_PARTS = ("train", "test")


def _parts(rows: Sequence[Row]) -> list[str]:
    """The part of each row: that of its column ``split``, or else every fifth text of a label for testing."""
    if "split" in rows[0][1]:
        for row in rows:
            if cell(row, "split") not in _PARTS:
                raise TaskError(f"{row[0]}: the column 'split' holds {cell(row, 'split')!r}; train or test was wanted.")
        return [cell(row, "split") for row in rows]
    seen: dict[str, int] = {}
    parts = []
    for row in rows:
        label = text(row, "label")
        seen[label] = seen.get(label, 0) + 1
        parts.append("test" if seen[label] % _TESTED == 0 else "train")
    return parts


def _description(name: str, rows: Sequence[Row], labels: Sequence[str]) -> str:
    told = next((cells["description"] for _, cells in rows if cells.get("description")), None)
    return str(told) if told else f"{re.sub(r'[_.-]+', ' ', name).strip().capitalize()}: {', '.join(labels)}."


def _csv(rows: Sequence[Row]) -> str:
    columns = [name for name in ("text", "text_pair", "label") if name in rows[0][1]]
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([text(row, "text"), *(cell(row, name) for name in columns[1:])] for row in rows)
    return written.getvalue()


# --- the configs ---


def _relative(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _quoted(path: Path) -> str:
    return json.dumps(path.as_posix(), ensure_ascii=False)


def _tasks_yaml(tasks: Sequence[Task], root: str, table: Path) -> str:
    listed = {"root": root, "tasks": [task.model_dump(mode="json", exclude_defaults=True) for task in tasks]}
    return (
        f"# Tasks of {table.name}, by `loragen zoo init`. Generators find experts by their descriptions: say in each\n"
        "# what is told apart, and in what kind of texts. Files are relative to `root`, and that to this file.\n"
        f"{dump_yaml(listed)}"
    )


def _zoo_yaml(out: Path, tasks: int, *, is_scored: bool) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).strip("._-") or "zoo"
    why = "base and expert on the test file of each task" if is_scored else "no: the table names no test files"
    return f"""\
# A zoo of {tasks} experts over MiniLM. Paths are relative to the folder in which the command runs:
#   loragen zoo build {out / "zoo.yaml"}
name: {name}
out: {_quoted(out / "zoo")}
base: {_BASE} # or any sentence encoder, by its Hub name or folder
tasks: {_quoted(out / "tasks.yaml")} # each of them gets an expert; `splits` would name some
frame: multitask # the A that all experts share is trained on all tasks together,
start: multitask # and so is the B that each begins with
recipe: # of each expert
  r: 4
  target_modules: [query, value]
  steps: 60
  batch_size: 32
  learning_rate: 0.01
multitask: # without `steps`: as many as all experts have together, 2,000 at most
  learning_rate: 0.005
score: {str(is_scored).lower()} # {why}
workers: 0 # processes that train side by side; 0 takes one a core
"""


def _train_yaml(out: Path, tasks: int) -> str:
    return f"""\
# SG-LoRA on the zoo of {tasks} experts. Paths are relative to the folder in which the command runs:
#   loragen train {out / "train-sg.yaml"}
#   loragen generate "A task, in words" --zoo {out / "zoo"}
generator: sg
zoo: {_quoted(out / "zoo")}
encoder: {_BASE} # embeds descriptions
out: {_quoted(out / "zoo" / "generators" / "sg")}
sg:
  top_k: {max(1, min(8, tasks - 1))} # experts that an adapter draws on
  temperature: 0.1 # lower favours the nearest more
  components: 100
  dropout: 0.3
epochs: 5
steps_per_epoch: 100
batch_size: 64
learning_rate: 0.001
weight_decay: 1.0
seed: 0
"""
