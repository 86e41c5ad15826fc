"""Rows of JSON and JSONL files."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loragen.errors import TaskError, shown
from loragen.tasks.columns import Row
from loragen.tasks.table_files import lines_of, open_text, text_of
from loragen.tasks.words import listed


def jsonl_rows(path: Path) -> Iterator[Row]:
    """A row a line; empty lines are none.

    Raises:
        TaskError: a line is no JSON object.
    """
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file, str(path)), 1):
            if line.strip():
                yield _row(parse_json(line, f"{path}:{number}"), f"{path}:{number}")


def json_rows(path: Path) -> Iterator[Row]:
    """A row an object of the array.

    Raises:
        TaskError: the file holds no JSON array of objects.
    """
    values = parse_json(text_of(path), str(path))
    if not isinstance(values, list):
        raise TaskError(f"{path} holds {type(values).__name__}; a JSON array of objects was wanted.{_hint(values)}")
    for number, value in enumerate(values, 1):
        yield _row(value, f"{path} (row {number})")


def _hint(values: Any) -> str:
    if not isinstance(values, dict):
        return ""
    rows = [name for name, value in values.items() if isinstance(value, list)]
    if rows:
        return f" Write the array under {shown(rows[0])} into a file of its own."
    if values and all(isinstance(value, dict) for value in values.values()):
        return " If pandas wrote it, write it with orient='records'."
    return f" Its keys are: {listed(list(values))}."


def _row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise TaskError(f"{place} holds {type(value).__name__}; a JSON object of columns was wanted.")
    return place, value


def parse_json(text: str, place: str) -> Any:
    """Parse JSON; ``place`` names its origin in the error.

    Raises:
        TaskError: it is none, holds a key twice, is nested too deep, or holds a number of thousands of digits.
    """

    def distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            repeated = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise TaskError(f"{place} holds the key {shown(repeated)} twice; name each column once.")
        return values

    try:
        return json.loads(text, object_pairs_hook=distinct)
    except json.JSONDecodeError as error:
        raise TaskError(f"{place} is not JSON: {error}.") from error
    except TaskError:
        raise
    except RecursionError as error:
        raise TaskError(f"{place} is nested too deep for JSON of rows.") from error
    except ValueError as error:  # Python refuses to convert numbers of over 4,300 digits
        raise TaskError(f"{place} holds a number that is too long ({error}).") from error
