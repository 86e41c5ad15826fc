"""Labels of a table: names as they stand, or numbers with the names at hand for them."""

import re
from collections.abc import Mapping, Sequence

from loragen.errors import TaskError, shown
from loragen.tasks.columns import all_or_none, label, optional_text, plain_name
from loragen.tasks.tables import Table
from loragen.tasks.words import checked_names, listed

Labels = tuple[tuple[int, ...], tuple[str, ...]]
"""The position of each row's label among the names, and the names."""
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,17})(\.0+)?")
_ANY_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_FREE_TEXT = 60
"""Characters of a label, in the middle of all, from which a label of its own for each row is taken for a text."""
_FEW = 20


def read_labels(
    table: Table, column: str, names: Sequence[str] | None = None, *, known: Sequence[str] = ()
) -> Labels | None:
    """The labels of all rows; `None` where no row has one.

    Numbers are positions among ``names``, unless a column beside them (such as ``label_text``) or the file itself has
    names for them; names that are numbers themselves are names.

    Args:
        table: at least one row.
        column: that of the labels.
        names: all classes, in order; by default those that occur.
        known: names that numbers stand for where nothing else says it.

    Raises:
        TaskError: only some rows have a label, a label is not among the names, or nothing says what numbers stand for.
    """
    given = None if names is None else checked_names(names, "The labels given")
    values = _filled(table, column, given if given is not None else tuple(known))
    if values is None:
        return None
    numbers = [_number(value) for value in values]
    own = _names_at_hand(table, column, numbers)
    if given is None:
        given = _found_names(table, values, own, known)
    by_number = _positions(own, given)
    by_name = {name: position for position, name in enumerate(given)}
    found = []
    for (place, _), value, number in zip(table.rows, values, numbers, strict=True):
        position = by_name.get(str(value))
        if position is None and number is not None:
            position = by_name.get(str(number), by_number.get(number))
        if position is None:
            met = f"{shown(value)} ({shown(own[number])})" if number in own else shown(value)
            raise TaskError(f"{place} has the label {met}, which is not among those named: {listed(given)}.")
        found.append(position)
    return tuple(found), given


def _filled(table: Table, column: str, names: Sequence[str]) -> tuple[str | int, ...] | None:
    """The values of a column that all rows have; `None` where none has."""
    hidden = -1 if column in table.class_names else None  # as the library `datasets` marks labels that are not told
    values = [label(row, column, names) if column in row[1] else None for row in table.rows]
    return all_or_none(table.rows, column, [None if value == hidden else value for value in values], table.name)


def _number(value: str | int) -> int | None:
    """A whole number, also one that a text file holds."""
    if isinstance(value, int):
        return value
    return int(value.partition(".")[0]) if _NUMBER.fullmatch(value) else None


def _names_at_hand(table: Table, column: str, numbers: Sequence[int | None]) -> dict[int, str]:
    """Names of numbers by the file itself, or by a column beside them."""
    if any(number is None for number in numbers):
        return {}
    if column in table.class_names:
        return dict(enumerate(checked_names(table.class_names[column], f"The class names in {table.name}")))
    usual = (f"{plain_name(column)}_text", f"{plain_name(column)}_name")
    beside = next((name for name in table.rows[0][1] if plain_name(name) in usual), None)
    if beside is None:
        return {}
    found: dict[int, str] = {}
    for row, number in zip(table.rows, numbers, strict=True):
        name = optional_text(row, beside)
        if number is None or name is None or found.setdefault(number, name) != name:
            raise TaskError(
                f"{row[0]}: the column {beside!r} holds {shown(name)} beside the label {number}, which other rows call "
                f"otherwise or do not; give each number one name."
            )
    checked_names(found.values(), f"The column {beside!r} of {table.name}")
    return dict(sorted(found.items()))


def _found_names(
    table: Table,
    values: Sequence[str | int],
    own: Mapping[int, str],
    known: Sequence[str],
) -> tuple[str, ...]:
    """Names of all classes where the user gave none."""
    if own:
        return tuple(own.values())
    if any(isinstance(value, int) for value in values) or all(map(_ANY_NUMBER.fullmatch, map(str, values))):
        if known:
            return checked_names(known, "The labels known")
        raise TaskError(
            f"The labels of {table.name} are numbers, such as {shown(values[0])}; name them in their order, as in "
            "--labels first,second, or write names into their column."
        )
    names = checked_names(dict.fromkeys(map(str, values)), f"The labels of {table.name}")
    lengths = sorted(map(len, names))
    if len(names) == len(values) >= _FEW and lengths[len(lengths) // 2] > _FREE_TEXT:
        raise TaskError(
            f"The labels of {table.name} look like free text: each row has one of its own, such as {shown(names[0])}; "
            "name the column of labels with --label-column."
        )
    return names


def _positions(own: Mapping[int, str], given: Sequence[str]) -> dict[int, int]:
    """Positions among the names given, by number."""
    if not own:
        return {} if any(name.isdecimal() for name in given) else {number: number for number in range(len(given))}
    is_same_order = list(own) == list(range(len(given)))
    if is_same_order and all(given[number] == name or name not in given for number, name in own.items()):
        return {number: number for number in own}  # the same classes, some in other words
    return {number: given.index(name) for number, name in own.items() if name in given}
