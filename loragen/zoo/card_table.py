"""The cards of a zoo of many experts in one table, SQLite's: read one by one, found by id, split and licence.

A row names the place of an expert's weights and of its descriptions' embeddings, so that what lies elsewhere counts
once the row is written, and a process that is killed before leaves the zoo as it was.
"""

import os
import sqlite3
from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from loragen.errors import ZooError, cut
from loragen.values import LONGEST_NAME
from loragen.zoo.card import Card

TABLE = "experts.sqlite"
"""File of a packed zoo for cards, hashes and places."""
MOST_EXPERTS = 10_000_000
"""Experts of a zoo."""
LARGEST_CARD = 1_000_000
"""Bytes of a card."""
_SCHEMA = """
CREATE TABLE experts (
    row INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, split TEXT NOT NULL, licence TEXT NOT NULL, sha256 TEXT NOT NULL,
    shard INTEGER NOT NULL, place INTEGER NOT NULL, first_description INTEGER NOT NULL, descriptions INTEGER NOT NULL
);
CREATE TABLE cards (row INTEGER PRIMARY KEY, card TEXT NOT NULL);
CREATE TABLE embedded (encoder TEXT PRIMARY KEY, rows INTEGER NOT NULL);
"""
_GONE = """
CREATE TABLE IF NOT EXISTS gone (
    row INTEGER PRIMARY KEY, end_of_descriptions INTEGER NOT NULL, shard INTEGER, place INTEGER
)
"""
"""Rows of experts that were taken out: their numbers are never given again, for embeddings and lists go by them. Shard
and place stand there until the weights are wiped."""


@dataclass(frozen=True)
class Place:
    """Where the weights of an expert lie, and the hash of the file that they came from."""

    shard: int
    place: int
    sha256: str


@dataclass(frozen=True, eq=False)
class CardTable(Mapping[str, Card]):
    """Id → card of the experts of a table, or of some of them, in alphabetical order of ids."""

    path: Path
    ids: tuple[str, ...]

    @classmethod
    def open(cls, path: Path) -> "CardTable":
        """Read the ids.

        Raises:
            ZooError: the table is missing or damaged, or holds more than any zoo.
        """
        with reading(path) as table:
            number, longest, texts = table.execute(
                "SELECT count(*), max(length(id)), sum(typeof(id) = 'text') FROM experts"
            ).fetchone()
            if number > MOST_EXPERTS or (number and (longest > LONGEST_NAME or texts != number)):
                raise ZooError(
                    f"{cut(path)} holds {number:,} experts with names of up to {longest} characters; at most "
                    f"{MOST_EXPERTS:,} with {LONGEST_NAME} are read; restore the file."
                )
            return cls(path, tuple(chain.from_iterable(table.execute("SELECT id FROM experts ORDER BY id"))))

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __contains__(self, expert: object) -> bool:
        at = bisect_left(self.ids, expert) if isinstance(expert, str) else len(self.ids)
        return at < len(self.ids) and self.ids[at] == expert

    def __getitem__(self, expert: str) -> Card:
        if expert not in self:
            raise KeyError(expert)
        with reading(self.path) as table:
            found = table.execute("SELECT card FROM cards JOIN experts USING (row) WHERE id = ?", (expert,)).fetchone()
        try:
            card = Card.model_validate_json(found[0])
        except (ValueError, TypeError) as error:
            raise ZooError(f"The card of {cut(expert)} in {cut(self.path)} is damaged; restore the file.") from error
        if card.id != expert:
            raise ZooError(f"{cut(self.path)} holds for {cut(expert)} the card of {cut(card.id)}; restore the file.")
        return card

    def narrowed(
        self, splits: Collection[str] | None, licences: Collection[str] | None, without: Collection[str]
    ) -> "CardTable":
        """The experts of these splits and licences (compared by ``casefold``), without some by id."""
        given = {"split": splits, "licence": licences}
        asked = {name: sorted(values) for name, values in given.items() if values is not None}
        where = " AND ".join(f"{name} IN ({','.join('?' * len(values))})" for name, values in asked.items())
        query = f"SELECT id FROM experts{' WHERE ' + where if where else ''} ORDER BY id"
        values = [value.casefold() if name == "licence" else value for name in asked for value in asked[name]]
        here, left_out = self._whole or frozenset(self.ids), frozenset(without)
        with reading(self.path) as table:
            found = [name for (name,) in table.execute(query, values)]
        return replace(self, ids=tuple(name for name in found if name not in left_out and name in here))

    @cached_property
    def _whole(self) -> "CardTable | None":
        """The table itself where it holds all experts, whose ids need no set of their own; else `None`."""
        with reading(self.path) as table:
            return self if table.execute("SELECT count(*) FROM experts").fetchone()[0] == len(self.ids) else None

    def met(self, column: str) -> list[str]:
        """The different splits or licences."""
        assert column in ("split", "licence")
        with reading(self.path) as table:
            return [str(value) for (value,) in table.execute(f"SELECT DISTINCT {column} FROM experts ORDER BY 1")]

    def place(self, expert: str) -> Place:
        """Where an expert lies.

        Raises:
            ZooError: it is not there.
        """
        with reading(self.path) as table:
            found = table.execute("SELECT shard, place, sha256 FROM experts WHERE id = ?", (expert,)).fetchone()
            if found is None:
                raise ZooError(f"{cut(self.path)} does not hold the expert {cut(expert)}; restore the file.")
            return Place(int(found[0]), int(found[1]), str(found[2]))

    def hashes(self) -> dict[str, str]:
        """Id → SHA-256, of all experts of the file."""
        with reading(self.path) as table:
            return dict(table.execute("SELECT id, sha256 FROM experts"))

    def columns(self) -> "Columns":
        """Rows and places of these experts, in the order of ids."""
        query = "SELECT id, row, shard, place, first_description, descriptions FROM experts ORDER BY id"
        with reading(self.path) as table:
            found = table.execute(query).fetchall()
        names = [row[0] for row in found]
        numbers = np.array([row[1:] for row in found], dtype=np.int64).reshape(-1, 5)
        if tuple(names) != self.ids:
            at = {name: number for number, name in enumerate(names)}
            if not at.keys() >= set(self.ids):
                raise ZooError(f"{cut(self.path)} lost experts while it was read; open the zoo again.")
            numbers = numbers[[at[name] for name in self.ids]]
        if (numbers < 0).any() or (numbers[:, 4] > LARGEST_CARD).any():
            raise ZooError(f"{cut(self.path)} names places that are none; restore the file.")
        return Columns(*numbers.T)

    def size(self) -> int:
        """One more than the number of the last row, of all experts that the file has held."""
        with reading(self.path) as table:
            return _ends(table)[0]

    def embedded(self, encoder: str) -> int:
        """How many rows, from the first, have embeddings by an encoder."""
        with reading(self.path) as table:
            found = table.execute("SELECT rows FROM embedded WHERE encoder = ?", (encoder,)).fetchone()
        return int(found[0]) if found else 0


@dataclass(frozen=True, eq=False)
class Columns:
    """Where experts lie, int64 (n,) each."""

    row: NDArray[np.int64]
    shard: NDArray[np.int64]
    place: NDArray[np.int64]
    first_description: NDArray[np.int64]
    """Rows of descriptions before the expert's own."""
    descriptions: NDArray[np.int64]


def create_table(path: Path) -> None:
    """Make an empty table."""
    with closing(sqlite3.connect(path)) as table:
        table.executescript(_SCHEMA)


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """A transaction: all of it is written when the block succeeds, and else nothing.

    Raises:
        ZooError: the table is damaged or cannot be written.
    """
    try:
        with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=rw", uri=True)) as table, table:
            table.execute("BEGIN IMMEDIATE")
            yield table
    except sqlite3.Error as error:
        raise ZooError(f"The table of experts {cut(path)} cannot be written ({cut(error)}).") from error


def insert(table: sqlite3.Connection, experts: Iterable[tuple[Card, Place]]) -> None:
    """Add experts behind the last row.

    Raises:
        ZooError: a card is too large to be read again.
    """
    begin, first = _ends(table)
    for row, (card, place) in enumerate(experts, begin):
        text, number = card.model_dump_json(), len(card.descriptions)
        if len(text.encode()) > LARGEST_CARD:
            raise ZooError(f"The card of {cut(card.id)} has over {LARGEST_CARD:,} bytes; shorten its texts.")
        table.execute(
            "INSERT INTO experts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, card.id, card.split, card.licence.casefold(), place.sha256, place.shard, place.place, first, number),
        )
        table.execute("INSERT INTO cards VALUES (?, ?)", (row, text))
        first += number


def _ends(table: sqlite3.Connection) -> tuple[int, int]:
    """Behind the last row and behind the last description, of experts that are there or were."""
    found = table.execute("SELECT row + 1, first_description + descriptions FROM experts ORDER BY row DESC LIMIT 1")
    ends = [found.fetchone() or (0, 0)]
    if _has_gone(table):
        gone = table.execute("SELECT row + 1, end_of_descriptions FROM gone ORDER BY row DESC LIMIT 1")
        ends.append(gone.fetchone() or (0, 0))
    row, description = max(ends)
    return int(row), int(description)


def _has_gone(table: sqlite3.Connection) -> bool:
    return table.execute("SELECT 1 FROM sqlite_master WHERE name = 'gone'").fetchone() is not None


def take_out(table: sqlite3.Connection, expert: str) -> None:
    """Delete the row and the card of an expert that is there; their bytes are overwritten in the file."""
    table.execute("PRAGMA secure_delete = 1")
    table.execute(_GONE)
    table.execute(
        "INSERT INTO gone SELECT row, first_description + descriptions, shard, place FROM experts WHERE id = ?",
        (expert,),
    )
    table.execute("DELETE FROM cards WHERE row = (SELECT row FROM experts WHERE id = ?)", (expert,))
    table.execute("DELETE FROM experts WHERE id = ?", (expert,))


def to_be_wiped(table: sqlite3.Connection) -> list[tuple[int, int]]:
    """Shards and places of experts that were taken out and whose weights are still there."""
    if not _has_gone(table):
        return []
    found = table.execute(
        "SELECT gone.shard, gone.place FROM gone LEFT JOIN experts USING (shard, place) "
        "WHERE gone.shard IS NOT NULL AND experts.id IS NULL"
    )
    return [(int(shard), int(place)) for shard, place in found]


def set_wiped(table: sqlite3.Connection) -> None:
    """State that the weights of all experts that were taken out are gone."""
    if _has_gone(table):
        table.execute("UPDATE gone SET shard = NULL, place = NULL")


def last_place(table: sqlite3.Connection) -> Place | None:
    """The place behind which there is no expert; `None` where there is none at all."""
    found = table.execute("SELECT shard, place, sha256 FROM experts ORDER BY row DESC LIMIT 1").fetchone()
    return None if found is None else Place(*found)


def set_embedded(table: sqlite3.Connection, encoder: str, rows: int) -> None:
    """State how many rows, from the first, have embeddings by an encoder."""
    table.execute("INSERT OR REPLACE INTO embedded VALUES (?, ?)", (encoder, rows))


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The table for reading, in a connection of its own, so that threads and forks share none.

    Raises:
        ZooError: the table is missing or damaged.
    """
    if not path.is_file():
        raise ZooError(f"{cut(path)} cannot be read (there is no such file); restore it.")
    # What a killed writer left is undone by the next reader that may write.
    mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
    try:
        with closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode={mode}", uri=True)) as table:
            table.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 2 * LARGEST_CARD)
            table.execute("PRAGMA query_only = 1")
            table.execute("PRAGMA trusted_schema = 0")
            yield table
    except (sqlite3.Error, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ZooError):
            raise
        raise ZooError(f"The table of experts {cut(path)} cannot be read ({cut(error)}); restore the file.") from error
