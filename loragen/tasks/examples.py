"""Examples of a task: texts with their labels, pairs, completions or images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self, TextIO, TypeVar

from loragen.errors import TaskError, shown
from loragen.tasks.columns import all_or_none, find_column, missing_column, optional_text, text
from loragen.tasks.labels import read_labels
from loragen.tasks.remote_files import place_of
from loragen.tasks.table_files import lines_of, reading
from loragen.tasks.tables import Table, read_table
from loragen.tasks.words import checked_names, is_blank, listed, refuse_unreadable

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
_MANY = 20
"""Rows from which it is strange that each has a label of its own."""


@dataclass(frozen=True)
class Examples:
    """Texts of one task, each part in the same order; a part is `None` where nothing is known of it.

    Raises:
        TaskError: a part has more or fewer entries than there are texts, a label has no name, or a text cannot be
            read.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None = None
    """Second texts."""
    labels: tuple[int, ...] | None = None
    """Positions in ``label_names``."""
    label_names: tuple[str, ...] = ()
    """Names of all classes of the task; empty for an open task, which has none."""
    completions: tuple[str, ...] | None = None
    """Texts that follow the texts."""
    images: tuple[Path, ...] | None = None
    """Files that the texts are captions of."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Remarks for the user, such as which columns of a file were taken."""
    columns: tuple[str, ...] = field(default=(), compare=False)
    """All columns of the file that they were read from."""

    def __post_init__(self) -> None:
        for name in ("pairs", "labels", "completions", "images"):
            part = getattr(self, name)
            if part is not None and len(part) != len(self):
                raise TaskError(f"There are {len(part)} {name} for {len(self)} texts; give one a text, or none at all.")
        for one in (*self.texts, *(self.pairs or ()), *(self.completions or ()), *self.label_names):
            refuse_unreadable(one, "A text")
        strange = [label for label in self.labels or () if not 0 <= label < len(self.label_names)]
        if strange:
            raise TaskError(
                f"An example has the label {strange[0]}, but there are {len(self.label_names)} names of labels; labels "
                "are positions among those, counted from 0."
            )

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def outputs(self) -> tuple[str, ...] | None:
        """The name of each text's label, or else its completion; `None` for plain texts."""
        if self.labels is None:
            return self.completions
        return tuple(self.label_names[label] for label in self.labels)

    def subset(self, indices: Iterable[int]) -> Self:
        """The examples at ``indices``, in that order; a 1-D integer tensor will do."""
        kept = [int(index) for index in indices]

        def of(part: tuple[T, ...] | None) -> tuple[T, ...] | None:
            return None if part is None else tuple(part[index] for index in kept)

        return replace(
            self,
            texts=tuple(self.texts[index] for index in kept),
            pairs=of(self.pairs),
            labels=of(self.labels),
            completions=of(self.completions),
            images=of(self.images),
        )

    def few(self, shots: int, *, rng: "torch.Generator") -> Self:
        """At most ``shots`` of each class, or of all where there are no classes, drawn at random."""
        import torch

        labels = self.labels or (0,) * len(self)
        kept: list[int] = []
        for index in torch.randperm(len(self), generator=rng).tolist():
            if sum(labels[other] == labels[index] for other in kept) < shots:
                kept.append(index)
        return self.subset(kept)

    def unlabelled(self) -> Self:
        """The same texts without their labels and completions."""
        return replace(self, labels=None, completions=None)

    @classmethod
    def from_file(
        cls,
        path: Path | str,
        label_names: Sequence[str] | None = None,
        *,
        known: Sequence[str] = (),
        text_column: str | None = None,
        label_column: str | None = None,
    ) -> Self:
        """Read JSONL, JSON, CSV or Parquet: a column ``text``, and ``text_pair`` and ``label`` where there are such.

        A text file (.txt) holds a text a line. Where a column has another usual name, ``notes`` say which was taken.

        Args:
            path: the file.
            label_names: names of all classes, in order; by default those that occur, in the order in which they do.
            known: names that numbers stand for where neither ``label_names`` nor the file says it.
            text_column: name of the column of texts.
            label_column: name of the column of labels.

        Raises:
            TaskError: the file is missing, damaged or empty, only some of its rows have a label or a pair, a label is
                not among those named, or nothing says what numbers stand for.
        """
        table = read_table(path if isinstance(path, Path) else place_of(path))
        plain = cls._of_table(table, text_column)
        labels, names, notes = _labels(table, label_names, known, label_column)
        return replace(plain, labels=labels, label_names=names, notes=(*plain.notes, *notes))

    @classmethod
    def texts_from_file(cls, path: Path | str, *, text_column: str | None = None) -> Self:
        """Read the texts of a file, and their pairs, alone: labels that it holds may be missing, or wrong.

        Raises:
            TaskError: the file is missing, damaged or empty, or only some of its rows have a pair.
        """
        return cls._of_table(read_table(path if isinstance(path, Path) else place_of(path)), text_column)

    @classmethod
    def _of_table(cls, table: Table, text_column: str | None) -> Self:
        place = table.name
        if not table.rows:
            raise TaskError(f"{place} holds no example; at least one row with a text was wanted.")
        of_texts = find_column(table.columns, "text", chosen=text_column, place=place)
        if of_texts is None:
            raise missing_column(place, "text", table.columns)
        texts = tuple(text(row, of_texts) for row in table.rows)
        pairs = all_or_none(table.rows, "text_pair", [optional_text(row, "text_pair") for row in table.rows], place)
        taken = f"Texts are taken from the column {of_texts!r} of {place}."
        notes = () if of_texts in ("text", text_column) else (taken,)
        return cls(texts, pairs, notes=notes, columns=table.columns)

    @classmethod
    def from_lines(cls, stream: TextIO, name: str) -> Self:
        """Read a text a line, such as those of standard input; empty lines are left aside.

        Raises:
            TaskError: the stream is not UTF-8, a line is too long, or there are too many.
        """
        with reading(Path(name)):
            lines = [line.strip() for line in lines_of(stream, name)]
        return cls(tuple(line for line in lines if not is_blank(line)))

    def checked_for_scores(self, name: str) -> Self:
        """The same examples, if something can be told apart by them; ``name`` is what messages call them.

        Raises:
            TaskError: they have no labels or only one, or all texts are equal.
        """
        if self.labels is None:
            met = f" (columns met: {listed(self.columns)})" if self.columns else ""
            told = f" {' '.join(self.notes)}" if self.notes else ""
            raise TaskError(
                f"{name} has no labels{met}; the true label of every text is wanted, in a column 'label' beside 'text' "
                f"or in one named with --label-column.{told}"
            )
        classes = {self.label_names[label] for label in self.labels}
        if len(classes) < 2:
            raise TaskError(
                f"{name} holds one label alone, {shown(next(iter(classes), None))}; at least two are wanted."
            )
        if len(set(zip(self.texts, self.pairs or self.texts, self.images or self.texts, strict=True))) == 1:
            raise TaskError(
                f"The {len(self)} texts of {name} are all equal: {shown(self.texts[0])}; name the column of texts with "
                "--text-column."
            )
        return self


def _labels(
    table: Table, names: Sequence[str] | None, known: Sequence[str], chosen: str | None
) -> tuple[tuple[int, ...] | None, tuple[str, ...], tuple[str, ...]]:
    """Positions of labels, the names of all classes, and notes; a column of another name need not hold any."""
    bare = None, () if names is None else checked_names(names, "The labels given")
    try:
        column = find_column(table.columns, "label", chosen=chosen, place=table.name)
        if column is None:
            return *bare, ()
        read = read_labels(table, column, names, known=known)
    except TaskError as error:
        if chosen is not None or "label" in table.columns:
            raise
        return *bare, (f"No labels are read: {error}",)
    if read is None:
        return *bare, ()
    notes = []
    if column not in ("label", chosen):
        notes.append(f"Labels are taken from the column {column!r} of {table.name}.")
    if names is None and len(read[1]) == len(table.rows) >= _MANY:
        notes.append(f"Each of the {len(table.rows)} rows of {table.name} has a label of its own in {column!r}.")
    return *read, tuple(notes)
