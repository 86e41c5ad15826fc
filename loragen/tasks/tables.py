"""Rows of examples: JSONL, JSON, CSV and Parquet files as columns by name, each row knowing where it stands."""

import csv
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loragen.errors import TaskError

Row = tuple[str, dict[str, Any]]  # where the row stands, for messages; and its columns


def read_rows(path: Path) -> list[Row]:
    """Read a UTF-8 JSONL, JSON (array of objects) or CSV file, or a Parquet file, as rows of columns.

    Raises:
        TaskError: the file is missing, damaged, of another kind or not UTF-8.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise TaskError(f"{path} ends in none of {', '.join(_READERS)}; convert it to one of them.")
    with reading(path):
        return list(reader(path))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn faults of reading a file into errors that name it."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise TaskError(f"{path} is not UTF-8 ({error}); convert it, for example with iconv.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise TaskError(f"Cannot read {path}: {reason}. Check the name and the folder it is relative to.") from error


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _json_row(parse_json(line, f"{path}:{number}"), f"{path}:{number}")


def _json_rows(path: Path) -> Iterator[Row]:
    values = parse_json(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(values, list):
        raise TaskError(f"{path} holds {type(values).__name__}; a JSON array of objects was wanted.")
    for number, value in enumerate(values, 1):
        yield _json_row(value, f"{path} (row {number})")


def _json_row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise TaskError(f"{place} holds {type(value).__name__}; a JSON object of columns was wanted.")
    return place, value


def parse_json(text: str, place: str) -> Any:
    """Parse JSON; ``place`` names its origin in the error."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TaskError(f"{place} is not JSON: {error}.") from error


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                place = f"{path}:{reader.line_num}"
                if None in row:
                    raise TaskError(f"{place} has more cells than the header; put texts that hold commas in quotes.")
                yield place, row
        except csv.Error as error:
            raise TaskError(f"{path}:{reader.reader.line_num} is not CSV: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise TaskError(f"{path} is not a readable Parquet file: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path} (row {number})", row


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}


def cell(row: Row, column: str) -> Any:
    """The value of a column, whatever it is."""
    place, cells = row
    if column not in cells:
        raise TaskError(
            f"{place} has no column {column!r}; it has: {', '.join(cells)}. Name the right one under 'source'."
        )
    return cells[column]


def text(row: Row, column: str) -> str:
    """The value of a column that must hold a non-empty text."""
    value = cell(row, column)
    if not isinstance(value, str) or not value.strip():
        raise TaskError(f"{row[0]}: the column {column!r} holds {value!r}; a non-empty text was wanted.")
    return value


def label(row: Row, column: str) -> str | int | None:
    """The value of a column of labels: a name, a whole number, or `None` where it is missing (empty, null or NaN).

    Raises:
        TaskError: it is anything else, such as a list or true and false.
    """
    value = cell(row, column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():  # a column of numbers of which some were missing
        return int(value)
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise TaskError(
        f"{row[0]}: the column {column!r} holds {value!r:.80}, a {type(value).__name__}; a label is a name, or its "
        "number counted from 0."
    )
