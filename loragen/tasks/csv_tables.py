"""Rows of CSV files, and of plain text files of one text a line. The separator is found in the header."""

import csv
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from loragen.errors import TaskError, shown
from loragen.tasks.columns import KNOWN, Row, plain_name
from loragen.tasks.table_files import MOST_COLUMNS, lines_of, open_text
from loragen.tasks.words import LONGEST_TEXT

SEPARATORS = ",;\t|"
_limit = threading.Lock()


def csv_rows(path: Path) -> Iterator[Row]:
    """A row a record; a cell that a short record lacks is `None`.

    Raises:
        TaskError: a record has more cells than the header, a column is named twice, or the quotes do not close.
    """
    with open_text(path) as file, _long_cells():
        lines = lines_of(file, str(path))
        begin = _beginning(lines)
        reader = csv.reader(chain(begin, lines), strict=True, delimiter=_separator(begin[-1], path))
        try:
            header = _header(next((record for record in reader if record), []), path)
            rows = [
                (f"{path}:{reader.line_num}", _cells(header, record, f"{path}:{reader.line_num}"))
                for record in reader
                if record
            ]
        except csv.Error as error:
            raise TaskError(f"{path}:{reader.line_num} is not CSV: {error}.") from error
    yield from rows


def text_rows(path: Path) -> Iterator[Row]:
    """A row a line, of the column ``text`` alone; empty lines are none."""
    with open_text(path) as file:
        for number, line in enumerate(lines_of(file, str(path)), 1):
            if line.strip():
                yield f"{path}:{number}", {"text": line.strip()}


@contextmanager
def _long_cells() -> Iterator[None]:
    """Let the csv module read cells as long as texts may be; its limit of 131,072 is one for the whole process."""
    with _limit:
        before = csv.field_size_limit(LONGEST_TEXT)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _beginning(lines: Iterator[str]) -> list[str]:
    """Lines up to that of the header, which is the first that is not blank."""
    begin = [""]
    for line in lines:
        begin.append(line)
        if line.strip():
            break
    return begin[1:] or begin


def _separator(header: str, path: Path) -> str:
    """The separator by which the header has the most known names; then the most names; then that of the ending."""
    by_ending = "\t" if ".tsv" in [suffix.lower() for suffix in path.suffixes] else ","

    def fitness(separator: str) -> tuple[int, int, bool]:
        try:
            names = next(csv.reader([header], delimiter=separator), [])
        except csv.Error:
            return 0, 0, separator == by_ending
        return sum(plain_name(name) in KNOWN for name in names), len(names), separator == by_ending

    return max(SEPARATORS, key=fitness)


def _header(names: Sequence[str], path: Path) -> list[str]:
    if len(names) > MOST_COLUMNS:
        raise TaskError(f"{path} has {len(names):,} columns, and {MOST_COLUMNS:,} are the most; leave some out.")
    stripped = [name.strip() for name in names]
    repeated = [name for name, count in Counter(stripped).items() if name and count > 1]
    if repeated:
        raise TaskError(f"{path} names the column {shown(repeated[0])} twice; give each column a name of its own.")
    return stripped


def _cells(header: Sequence[str], record: Sequence[str], place: str) -> dict[str, str | None]:
    """The cells of a record by column, but for columns without a name."""
    if any(record[len(header) :]):
        raise TaskError(f"{place} has more cells than the header; put texts that hold the separator in quotes.")
    filled = [*record, *[None] * (len(header) - len(record))]
    return {name: value for name, value in zip(header, filled, strict=False) if name}
