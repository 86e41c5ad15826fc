"""Templates filled from the columns of a row: plain ``{column}`` fields alone, and nothing is formatted by them."""

from string import Formatter

from loragen.errors import TaskError, shown
from loragen.tasks.columns import Row
from loragen.tasks.words import listed


def filled(template: str, row: Row) -> str:
    """The template with each ``{column}`` replaced by that cell; ``{{`` and ``}}`` are braces.

    Raises:
        TaskError: a field names no column, or asks for more than its cell; or a cell holds no text and no number.
    """
    place, cells = row
    parts = []
    try:
        for literal, name, spec, conversion in Formatter().parse(template):
            parts.append(literal)
            if name is None:
                continue
            if name not in cells or spec or conversion:
                raise ValueError(f"{shown(name)} with its format is no plain {{column}}")
            parts.append(_written(cells[name], name))
    except ValueError as error:
        raise TaskError(
            f"{place}: the description template {shown(template)} cannot be filled ({error}); the columns are: "
            f"{listed(list(cells))}."
        ) from error
    return "".join(parts)


def _written(value: object, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == "":
        raise ValueError(f"the column {shown(name)} holds {shown(value)}")
    return str(value)
