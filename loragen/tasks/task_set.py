"""Tasks: a description, the label names, and the source of the examples.

A YAML file describes a set of tasks, in full or as a table with a template for the places of the examples.
"""

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, TypeAdapter, ValidationError, model_validator

from loragen.config import StrictModel
from loragen.errors import TaskError
from loragen.tasks.columns import Row, cell, is_nan, text
from loragen.tasks.examples import Examples
from loragen.tasks.json_tables import parse_json
from loragen.tasks.labels import read_labels
from loragen.tasks.remote_files import joined, local_copy
from loragen.tasks.source import Part, TaskSource
from loragen.tasks.table_files import reading, text_of
from loragen.tasks.tables import Table, read_table
from loragen.tasks.templates import filled
from loragen.tasks.words import checked_names, is_blank, listed, refuse_unreadable
from loragen.values import Name

NonBlank = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


_FILES = ("train", "test")
_LISTS = ("labels", "paraphrases")


class Task(StrictModel):
    """A task in words, its label names, its examples and their origin.

    A task without labels is open: its texts are followed by completions, or are captions of images, or stand for
    themselves, for a language model to learn.
    """

    id: Name
    description: NonBlank
    paraphrases: tuple[NonBlank, ...] = ()
    labels: tuple[NonBlank, ...] = ()
    source: TaskSource
    metric: Literal["accuracy", "macro_f1"] = "accuracy"
    family: str = ""
    domain: str = ""
    kind: str = ""
    licence: str = "none stated"
    origin: str = ""
    commit: str = ""

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if not self.source.is_placed:
            raise ValueError("its source wanted either local files (train, test) or a Hub data set (hub)")
        return self

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        for words in self.descriptions:
            refuse_unreadable(words, "a description")
            if is_blank(words):
                raise ValueError("a description shows nothing; say the task in words")
        return self

    @model_validator(mode="after")
    def _has_distinct_labels(self) -> Self:
        if len(self.labels) == 1:
            raise ValueError("one label leaves nothing to tell apart; wanted at least two, or none for an open task")
        if repeated := _repeated(self.labels):
            raise ValueError(f"labels occur more than once: {listed(repeated)}")
        checked_names(self.labels, "labels")
        return self

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The description, then its paraphrases."""
        return (self.description, *self.paraphrases)

    def load_train(self) -> Examples:
        """Read the training examples; see :meth:`load_test`."""
        return self._load("train")

    def load_test(self) -> Examples:
        """Read the test examples.

        A label is a label name or, unless some name is itself a number, the position of one counted from 0.

        Raises:
            TaskError: a file or a column is missing, or a row has no text, half a pair or a foreign label.
            MissingExtraError: the examples lie on the Hub and ``datasets`` is not installed.
        """
        return self._load("test")

    def _load(self, part: Part) -> Examples:
        source, table = self.source, self.source.table(part, self.id)
        rows = table.rows
        is_captioned = source.image is None or not self.labels
        return Examples(
            texts=tuple(text(row, source.text) if is_captioned else "" for row in rows),
            pairs=source.pairs(rows),
            labels=self._label_positions(table) if self.labels else None,
            label_names=self.labels,
            completions=None if source.completion is None else tuple(text(row, source.completion) for row in rows),
            images=source.images(rows, part),
        )

    def _label_positions(self, table: Table) -> tuple[int, ...]:
        column = self.source.label
        for row in table.rows:
            cell(row, column)
        read = read_labels(table, column, self.labels)
        if read is None:
            raise TaskError(
                f"{table.name} has no value in the column {column!r}; task {self.id} wants its labels there."
            )
        return read[0]


@dataclass(frozen=True)
class TaskSet:
    """Tasks with distinct ids, and named splits of them."""

    tasks: tuple[Task, ...]
    splits: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if repeated := _repeated(task.id for task in self.tasks):
            raise TaskError(f"Task ids occur more than once: {', '.join(repeated)}. Give every task its own.")
        for name, ids in self.splits.items():
            if repeated := _repeated(ids):
                raise TaskError(f"The split {name!r} names tasks more than once: {', '.join(repeated)}.")
            for task_id in ids:
                self[task_id]

    @classmethod
    def from_yaml(cls, path: Path, *, root: Path | None = None) -> "TaskSet":
        """Read a task set; ``root`` takes the place of the file's own ``root`` as the folder of all relative paths.

        Raises:
            ConfigError: the YAML, or a task in it, does not fit.
            TaskError: a table or splits file is missing or damaged, or ids clash.
        """
        config = TaskSetConfig.from_yaml(path)
        folder = root or joined(path.parent, config.root)
        with _hinting(config.missing):
            entries = config.tasks if config.table is None else tuple(_tabled(config, folder))
            splits = _read_splits(joined(folder, config.splits)) if isinstance(config.splits, str) else config.splits
        tasks = (task.model_copy(update={"source": task.source.located(folder, task.id)}) for task in entries)
        return cls(tasks=tuple(tasks), splits=splits)

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, task_id: str) -> Task:
        for task in self.tasks:
            if task.id == task_id:
                return task
        nearest = difflib.get_close_matches(task_id, [task.id for task in self.tasks], n=1, cutoff=0.0)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise TaskError(f"There is no task {task_id!r} among these {len(self)}.{hint}")

    def split(self, name: str) -> tuple[Task, ...]:
        """Pick the tasks of one split, in its order."""
        if name not in self.splits:
            known = ", ".join(self.splits) or "none; add 'splits:' to the task config"
            raise TaskError(f"There is no split {name!r}; known splits: {known}.")
        return tuple(self[task_id] for task_id in self.splits[name])


TABLE_FIELDS = (*(name for name in Task.model_fields if name != "source"), *_FILES)
"""Names that columns of a table of tasks can stand for."""


class TaskSetConfig(StrictModel):
    """The YAML form of a task set: ``tasks`` in full, or a ``table`` with ``columns`` and a ``source`` template.

    ``columns`` maps fields of :class:`Task`, and the files ``train`` and ``test`` of its source, to columns of the
    table; a cell of a CSV table holds several labels or paraphrases with ``|`` between them or as a JSON array, and an
    empty cell holds the field's default. Strings of ``source`` may hold ``{id}``. A ``description`` template makes
    descriptions of the table's columns, such as "a photo of a {name}". ``splits`` maps names to lists of ids, or names
    a JSON file that does. Paths are relative to ``root``, and that to the YAML file or a URI. ``missing`` is a hint,
    added to the error where the table or the splits are not there.
    """

    root: str = "."
    tasks: tuple[Task, ...] = ()
    table: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    description: str | None = None
    source: TaskSource | None = None
    splits: str | dict[str, tuple[str, ...]] = Field(default_factory=dict)
    missing: str = ""

    @model_validator(mode="after")
    def _is_list_or_table(self) -> Self:
        if bool(self.tasks) == bool(self.table):
            raise ValueError("wanted either tasks, in full, or a table of them")
        if self.tasks and (self.columns or self.source or self.description):
            raise ValueError("columns, description and source go with a table; a task listed in full has its own")
        if self.description and "description" in self.columns:
            raise ValueError("descriptions come from a column or from a template; wanted one of the two")
        known = set(TABLE_FIELDS)
        if unknown := sorted(set(self.columns) - known):
            raise ValueError(
                f"columns names no fields of a task: {', '.join(unknown)}; known: {', '.join(sorted(known))}"
            )
        needed = {"id"} if self.description else {"id", "description"}
        if self.table and (missing := needed - set(self.columns)):
            raise ValueError(f"columns must name the table's columns for {', '.join(sorted(missing))}")
        if self.table and self.source is None and "train" not in self.columns:
            raise ValueError(
                "a table needs a source that says where the examples of each {id} lie, or a column for train"
            )
        return self


def overlap(train: Sequence[Task], held_out: Sequence[Task], by: Literal["id", "family"]) -> list[str]:
    """Name the ids or families that stand on both sides, sorted; a task without a family is its own."""

    def names(tasks: Sequence[Task]) -> set[str]:
        return {task.id if by == "id" else task.family or task.id for task in tasks}

    return sorted(names(train) & names(held_out))


def _tabled(config: TaskSetConfig, folder: Path | str) -> Iterator[Task]:
    assert config.table is not None
    for row in read_table(joined(folder, config.table)).rows:
        yield task_of_row(row, config.columns, description=config.description, source=config.source)


def task_of_row(
    row: Row, columns: Mapping[str, str], *, description: str | None = None, source: TaskSource | None = None
) -> Task:
    """A task from a row of a table, see `TaskSetConfig`; ``description`` and ``source`` are its templates.

    Raises:
        TaskError: the row lacks a column.
        ConfigError: its values do not fit.
    """
    values = {name: cell(row, column) for name, column in columns.items()}
    values = {name: value for name, value in values.items() if value not in (None, "") and not is_nan(value)}
    values |= {name: _parts(values[name]) for name in _LISTS if name in values}
    if description is not None:
        values["description"] = filled(description, row)
    files = {name: values.pop(name) for name in _FILES if name in values}
    template = {} if source is None else source.model_dump(exclude_unset=True)
    return Task.checked({**values, "source": template | files}, source=row[0])


def _parts(value: Any) -> Any:
    """The parts of a cell that names several: a JSON array of them, or texts with | between them; lists stay lists."""
    if not isinstance(value, str):
        return value
    if value.strip().startswith("["):
        try:
            return parse_json(value, "The cell")
        except TaskError:
            pass  # a label that begins with a bracket
    return [part.strip() for part in value.split("|")] if "|" in value else value


@contextmanager
def _hinting(hint: str) -> Iterator[None]:
    """Add a hint to the error on a file that is not there."""
    try:
        yield
    except TaskError as error:
        if hint and isinstance(error.__cause__, FileNotFoundError):
            raise TaskError(f"{error} {hint}") from error.__cause__
        raise


def _read_splits(place: Path | str) -> dict[str, tuple[str, ...]]:
    with nullcontext(place) if isinstance(place, Path) else local_copy(place) as path:
        return _splits_of(path)


def _splits_of(path: Path) -> dict[str, tuple[str, ...]]:
    with reading(path):
        values = parse_json(text_of(path), str(path))
    try:
        return TypeAdapter(dict[str, tuple[str, ...]]).validate_python(values)
    except ValidationError as error:
        raise TaskError(f"{path} was wanted as a JSON object of split names, each with a list of task ids.") from error


def _repeated(names: Iterable[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
