"""Configs of a zoo of one's own, written from a table of tasks or from one file of labelled texts."""

import os
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from loragen.bases.known import EMBEDDED_MODEL
from loragen.config import dump_yaml
from loragen.errors import ConfigError, TaskError
from loragen.escaping import plain, yaml_literal
from loragen.files import atomic_write, sweep
from loragen.tasks.columns import Row, find_column, plain_name
from loragen.tasks.examples import Examples
from loragen.tasks.remote_files import joined
from loragen.tasks.tables import Table, read_table
from loragen.tasks.task_set import TABLE_FIELDS, Task, task_of_row
from loragen.tasks.words import listed
from loragen.zoo.init_texts import check_number, split_by_task

TABLE = ("id", "description", "train")
"""Columns that a table of tasks must have, a row a task; labels, test and other fields of a task may follow."""
TEXTS = ("task", "text", "label")
"""Columns that a file of labelled texts must have, a row a text; description, split and text_pair may follow."""
CONFIGS = ("tasks.yaml", "zoo.yaml", "train-sg.yaml")

_BASE = f"sentence-transformers/{EMBEDDED_MODEL}"


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
    read = _renamed(read_table(table))
    met = set(read.rows[0][1]) if read.rows else set()
    if met >= set(TABLE):
        root, tasks = _relative(table.parent, out), [_task_of_row(row, table.parent) for row in read.rows]
        texts: dict[str, str] = {}
    elif met >= set(TEXTS):
        root, (tasks, texts) = ".", split_by_task(read)
    else:
        columns = f"has the columns {listed(read.columns)}" if read.rows else "has no rows"
        raise TaskError(
            f"{table} {columns}; wanted are {', '.join(TABLE)} (and labels, test), a row a task, or {', '.join(TEXTS)} "
            "(and description, split), a row a text."
        )
    counts = Counter(task.id for task in tasks)
    if repeated := [name for name, count in counts.items() if count > 1]:
        raise TaskError(f"{table} names tasks more than once: {', '.join(repeated)}; give every task an id of its own.")
    return root, tasks, texts


def _renamed(table: Table) -> Table:
    """The table with columns by the names wanted here, where it has them in capitals or by other usual names."""
    columns = table.columns
    if {plain_name(name) for name in columns} >= set(TABLE):
        wanted: tuple[str, ...] = tuple(dict.fromkeys((*TABLE, *TABLE_FIELDS)))
    else:
        wanted = (*TEXTS, "text_pair", "description", "split")
    found = {find_column(columns, name, place=table.name): name for name in wanted}

    def name_of(column: str) -> str:
        return found.get(column, column)

    rows = tuple((place, {name_of(column): value for column, value in cells.items()}) for place, cells in table.rows)
    return Table(table.name, rows, {name_of(column): names for column, names in table.class_names.items()})


# --- a row a task ---


def _task_of_row(row: Row, folder: Path) -> Task:
    """A task of the table, its data read and checked, and its labels taken from there where the table has none."""
    task = task_of_row(row, {name: name for name in TABLE_FIELDS if name in row[1]})
    train = joined(folder, task.source.train or "")
    if not task.labels:
        task = _relabelled(task, Examples.from_file(train).label_names, str(train))
    task = task.model_copy(update={"source": task.source.model_copy(update=_columns(read_table(train)))})
    located = task.model_copy(update={"source": task.source.located(folder, task.id)})
    check_number(task.id, len(located.load_train()), str(train))
    if task.source.test:
        located.load_test()
    return task


def _columns(table: Table) -> dict[str, str]:
    """Columns of a file of examples that a source must name: those whose names differ from the usual, and pairs."""
    found = {name: find_column(table.columns, name, place=table.name) for name in ("text", "label")}
    pair = {"text_pair": "text_pair"} if "text_pair" in table.columns else {}
    return {name: column for name, column in found.items() if column not in (None, name)} | pair


def _relabelled(task: Task, labels: Sequence[str], place: str) -> Task:
    if len(labels) < 2:
        raise TaskError(
            f"{place} has {len(labels)} labels for the task {task.id}; at least two are wanted, in its column 'label'."
        )
    return task.model_copy(update={"labels": tuple(labels)})


def _all_have_tests(tasks: Sequence[Task], table: Path) -> bool:
    without = [task.id for task in tasks if not task.source.test]
    if without and len(without) < len(tasks):
        raise TaskError(
            f"{table} names a test file for some tasks, but none for {', '.join(without[:8])}; name one for each, of "
            "labelled texts that are not in its train file, or for none."
        )
    return not without


# --- the configs ---


def _relative(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(folder.resolve(), out.resolve())).as_posix()


def _quoted(path: Path) -> str:
    return yaml_literal(path.as_posix())


def _in_comment(path: Path) -> str:
    return plain(shlex.quote(path.as_posix()))


def _tasks_yaml(tasks: Sequence[Task], root: str, table: Path) -> str:
    values = {"root": root, "tasks": [task.model_dump(mode="json", exclude_defaults=True) for task in tasks]}
    return (
        f"# Tasks of {plain(table.name)}, by `loragen zoo init`. Generators find experts by their descriptions: say\n"
        "# in each what is told apart, in what kind of texts. Files are relative to `root`, and that to this file.\n"
        f"{dump_yaml(values)}"
    )


def _zoo_yaml(out: Path, tasks: int, *, is_scored: bool) -> str:
    name = re.sub(r"[^a-z0-9._-]+", "-", out.resolve().name.lower()).strip("._-") or "zoo"
    why = "base and expert on the test file of each task" if is_scored else "no: the table names no test files"
    return f"""\
# A zoo of {tasks} experts over MiniLM. Paths are relative to the folder in which the command runs:
#   loragen zoo build {_in_comment(out / "zoo.yaml")}
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
    alone = "  leave_one_out: false # one expert has no others to learn from\n" if tasks == 1 else ""
    return f"""\
# SG-LoRA on the zoo of {tasks} experts. Paths are relative to the folder in which the command runs:
#   loragen train {_in_comment(out / "train-sg.yaml")}
#   loragen generate "A task, in words" --zoo {_in_comment(out / "zoo")}
generator: sg
zoo: {_quoted(out / "zoo")}
encoder: {_BASE} # embeds descriptions
out: {_quoted(out / "zoo" / "generators" / "sg")}
sg:
  top_k: {max(1, min(8, tasks - 1))} # experts that an adapter draws on
{alone}  temperature: 0.1 # lower favours the nearest more
  components: 100
  dropout: 0.3
epochs: 5
steps_per_epoch: 100
batch_size: 64
learning_rate: 0.001
weight_decay: 1.0
seed: 0
"""
