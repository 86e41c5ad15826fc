"""Examples of a task: texts with their labels, pairs, completions or images."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, TypeVar

import torch

from loragen.errors import TaskError
from loragen.tasks.tables import Row, label, read_rows, text

T = TypeVar("T")


@dataclass(frozen=True)
class Examples:
    """Texts of one task, each part in the same order; a part is `None` where nothing is known of it.

    Raises:
        TaskError: a part has more or fewer entries than there are texts, or a label has no name.
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

    def __post_init__(self) -> None:
        for name in ("pairs", "labels", "completions", "images"):
            part = getattr(self, name)
            if part is not None and len(part) != len(self):
                raise TaskError(f"There are {len(part)} {name} for {len(self)} texts; give one a text, or none at all.")
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

    def few(self, shots: int, *, rng: torch.Generator) -> Self:
        """At most ``shots`` of each class, or of all where there are no classes, drawn at random."""
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
    def from_file(cls, path: Path, label_names: Sequence[str] | None = None) -> Self:
        """Read JSONL, JSON, CSV or Parquet: a column ``text``, and ``text_pair`` and ``label`` where there are such.

        Args:
            path: the file.
            label_names: names of all classes, in order; by default those that occur, in the order in which they do.

        Raises:
            TaskError: the file is missing, damaged or empty, only some of its rows have a label or a pair, or a label
                is not among those named.
        """
        rows = read_rows(path)
        if not rows:
            raise TaskError(f"{path} holds no example; at least one row with a text was wanted.")
        if missing := next((row for row in rows if "text" not in row[1]), None):
            raise TaskError(
                f"{missing[0]} has no column 'text'; columns met: {', '.join(map(str, missing[1]))}. Rows hold text, "
                "and text_pair and label if any."
            )
        found, pairs = _column(rows, "label", path), _column(rows, "text_pair", path)
        texts = tuple(text(row, "text") for row in rows)
        second = None if pairs is None else tuple(map(str, pairs))
        if found is None:
            return cls(texts, second, label_names=tuple(label_names or ()))
        if label_names is None and any(isinstance(value, int) for value in found):
            raise TaskError(
                f"The labels of {path} are numbers, such as {found[0]}; name them in their order, as in --labels "
                "first,second, or write names into the column 'label'."
            )
        names = tuple(dict.fromkeys(map(str, found))) if label_names is None else tuple(label_names)
        return cls(texts, second, tuple(_position(value, names, path) for value in found), names)


def _column(rows: Sequence[Row], name: str, path: Path) -> tuple[str | int, ...] | None:
    """The values of a column that all rows have, or none."""
    values = [label(row, name) if name in row[1] else None for row in rows]
    missing = [place for (place, _), value in zip(rows, values, strict=True) if value is None]
    if missing and len(missing) < len(rows):
        raise TaskError(f"{missing[0]} has no {name!r}, but other rows of {path} have; fill it in all rows or in none.")
    return None if missing else tuple(value for value in values if value is not None)


def _position(value: str | int, names: Sequence[str], path: Path) -> int:
    """The place of a label among the names: by its name, or by its number counted from 0 where no name is a number."""
    if str(value) in names:
        return names.index(str(value))
    is_number = str(value).isdecimal() and not any(name.isdecimal() for name in names)
    if is_number and int(value) < len(names):
        return int(value)
    raise TaskError(
        f"An example of {path} has the label {value!r}, which is not among those named: {', '.join(names)}."
    )
