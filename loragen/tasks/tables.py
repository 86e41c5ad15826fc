"""Tables of examples or tasks: JSONL, JSON, CSV, Parquet and plain text files as rows of columns by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from loragen.errors import TaskError
from loragen.tasks.columns import Row
from loragen.tasks.csv_tables import csv_rows, text_rows
from loragen.tasks.json_tables import json_rows, jsonl_rows
from loragen.tasks.parquet_tables import parquet_rows
from loragen.tasks.remote_files import local_copy
from loragen.tasks.table_files import PACKED, reading

MOST_ROWS = 5_000_000


@dataclass(frozen=True)
class Table:
    """Rows of a table, and what it says of the numbers in them."""

    name: str
    """Its file or data set, for messages."""
    rows: tuple[Row, ...]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names that numbers stand for, by column, where the file holds such."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all columns, in the order in which they occur."""
        return tuple(dict.fromkeys(name for _, cells in self.rows for name in cells))


def read_table(place: Path | str) -> Table:
    """Read a UTF-8 JSONL, JSON (array of objects), CSV, TSV or text file (a text a line), or a Parquet file.

    All but Parquet may be packed by gzip, their names ending in .gz. A string is a URI, see `remote_files`.

    Raises:
        TaskError: the file is missing, damaged, too large, of another kind or not UTF-8.
        MissingExtraError: a URI needs a library that is not installed.
    """
    if isinstance(place, Path):
        return _read(place)
    with local_copy(place) as copy:
        table = _read(copy)
    rows = tuple((where.replace(str(copy), place), cells) for where, cells in table.rows)
    return Table(place, rows, table.class_names)


def _read(path: Path) -> Table:
    kind = (path.with_suffix("") if path.suffix.lower() == PACKED else path).suffix.lower()
    with reading(path):
        if kind == ".parquet" and kind == path.suffix.lower():
            rows, names = parquet_rows(path, MOST_ROWS)
            return Table(str(path), tuple(rows), names)
        reader = _READERS.get(kind)
        if reader is None:
            raise TaskError(f"{path} ends in none of {', '.join(_READERS)}, .parquet; convert it to one of them.")
        found = tuple(islice(reader(path), MOST_ROWS + 1))
    if len(found) > MOST_ROWS:
        raise TaskError(f"{path} has over {MOST_ROWS:,} rows, which are the most; give a part of it.")
    return Table(str(path), found)


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
    ".txt": text_rows,
}
