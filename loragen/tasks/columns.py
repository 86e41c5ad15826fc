"""Columns of a table: found by their names or by usual names for the same, and their cells read as texts or labels."""

import math
import re
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from loragen.errors import TaskError, shown
from loragen.tasks.words import LONGEST_NAME, is_blank, listed, refuse_unreadable

T = TypeVar("T")
Row = tuple[str, dict[str, Any]]  # where the row stands, for messages; and its columns

SYNONYMS = {
    "text": ("sentence", "content", "review", "body", "message"),
    "label": ("labels", "label_text", "label_name", "category", "class", "target", "intent"),
}
"""Usual names of a column, beside its own."""
KNOWN = frozenset(
    {*SYNONYMS, *(name for names in SYNONYMS.values() for name in names)}
    | {"text_pair", "id", "task", "description", "train", "test", "split"}
)
"""Names by which the header of a table is known."""
_OTHERWISE = (
    "Rename one, or name the right one: with --text-column or --label-column, or under 'source' of a task config."
)


def plain_name(name: str) -> str:
    """The name of a column without blanks, underscores and capitals that do not tell it from others."""
    return re.sub(r"[\s_-]+", "_", name.strip().casefold())


def find_column(columns: Sequence[str], wanted: str, *, chosen: str | None = None, place: str) -> str | None:
    """The column of a meaning: of that very name; else of it in other capitals; else of one usual name for it.

    Args:
        columns: all names met.
        wanted: ``text``, ``label`` or another name.
        chosen: the name that the user says it has.
        place: the table, for messages.

    Raises:
        TaskError: there is no column of the chosen name, or several could be meant.
    """
    if chosen is not None:
        if chosen not in columns:
            raise missing_column(place, chosen, columns)
        return chosen
    if wanted in columns:
        return wanted
    for names in ((wanted,), SYNONYMS.get(wanted, ())):
        found = [column for column in columns if plain_name(column) in names]
        if len(found) > 1:
            raise TaskError(
                f"{place} has no column {wanted!r}, and several that could be meant: {listed(found)}. {_OTHERWISE}"
            )
        if found:
            return found[0]
    return None


def missing_column(place: str, wanted: str, columns: Collection[str]) -> TaskError:
    """The error on a column that is not there, with those that are."""
    return TaskError(f"{place} has no column {wanted!r}; columns met: {listed(list(columns)) or 'none'}. {_OTHERWISE}")


def cell(row: Row, column: str) -> Any:
    """The value of a column, whatever it is.

    Raises:
        TaskError: there is no such column.
    """
    place, cells = row
    if column not in cells:
        raise missing_column(place, column, cells)
    return cells[column]


def text(row: Row, column: str) -> str:
    """The value of a column that must hold a text.

    Raises:
        TaskError: it is missing, no text, shows nothing, or cannot be read.
    """
    value = cell(row, column)
    if isinstance(value, str):
        refuse_unreadable(value, f"{row[0]}: the column {column!r}")
    if not isinstance(value, str) or is_blank(value):
        raise TaskError(f"{row[0]}: the column {column!r} holds {shown(value)}; a non-empty text was wanted.")
    return value


def optional_text(row: Row, column: str) -> str | None:
    """The value of a column of texts without blanks around it; `None` where it is missing.

    Raises:
        TaskError: it is no text, or cannot be read.
    """
    value = row[1].get(column)
    if isinstance(value, str):
        refuse_unreadable(value, f"{row[0]}: the column {column!r}")
    is_missing = value is None or is_nan(value) or (isinstance(value, str) and is_blank(value))
    return None if is_missing else text(row, column).strip()


MISSING = frozenset(
    {
        *("#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
        *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
    }
)
"""What stands for a missing value in a column of labels, as `pandas.read_csv` has it."""


def label(row: Row, column: str, names: Collection[str] = ()) -> str | int | None:
    """The value of a column of labels: a name, a whole number, or `None` where it is missing.

    Missing are empty cells, null, NaN, and the words of `MISSING` that are not among ``names``.

    Raises:
        TaskError: it is anything else, such as a list or true and false.
    """
    value = cell(row, column)
    if value is None or is_nan(value):
        return None
    if isinstance(value, float) and value.is_integer():  # a column of numbers of which some were missing
        return int(value)
    if isinstance(value, str):
        name = value.strip()
        refuse_unreadable(name, f"{row[0]}: the label in the column {column!r}", longest=LONGEST_NAME)
        return None if is_blank(name) or (name in MISSING and name not in names) else name
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TaskError(
        f"{row[0]}: the column {column!r} holds {shown(value)}, a {type(value).__name__}; a label is a name, or its "
        "number counted from 0."
    )


def all_or_none(rows: Sequence[Row], column: str, values: Sequence[T | None], place: str) -> tuple[T, ...] | None:
    """The values of a column that all rows have; `None` where none has.

    Raises:
        TaskError: only some rows have one.
    """
    filled = tuple(value for value in values if value is not None)
    if filled and len(filled) < len(values):
        where, cells = rows[values.index(None)]
        met = cells.get(column)
        is_told = met is not None and not (isinstance(met, str) and is_blank(met))
        told = f" (it holds {shown(met)}, which stands for a missing value)" if is_told else ""
        raise TaskError(
            f"{where} has no {column!r}{told}, but other rows of {place} have; fill it in all rows or in none."
        )
    return filled or None


def is_nan(value: Any) -> bool:
    """True for the number that stands for a missing value."""
    return isinstance(value, float) and math.isnan(value)
