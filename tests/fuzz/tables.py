"""Tables of labelled texts and of tasks: CSV, JSONL, JSON and Parquet, in several encodings."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from fuzz.files import Mutant
from fuzz.mutations import mutated_bytes, mutated_tree, odd_values

Rows = list[dict[str, Any]]
COLUMNS = ("text", "label", "text_pair", "label_text", "Text", "LABEL", " text ", "id", "", "split", "task")
KINDS = (".csv", ".jsonl", ".json", ".parquet")
WORDS = (
    "soup",
    "tea",
    "bread, warm",
    'a "quoted" word',
    "two\nlines",
    "Größe",
    "日本",
    "🍞",
    "x;y",
    "a\tb",
    "0",
    "nan",
)


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Rows that are sound: a text each and, in all or none, a label and a second text."""
    texts = st.sampled_from(WORDS)
    columns = {"text": texts}
    if draw(st.booleans()):
        columns["label"] = st.sampled_from(["yes", "no", "may be", "a, b"])
    if draw(st.booleans()):
        columns["text_pair"] = texts
    return draw(st.lists(st.fixed_dictionaries(columns), min_size=1, max_size=6))


@st.composite
def tasks(draw: st.DrawFn) -> Rows:
    """Rows of a table of tasks whose files are there."""
    names = draw(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3, unique=True))
    files = {"train": "texts.jsonl", "test": "texts.jsonl"}
    return [{"id": name, "description": f"Is it {name}?", "labels": "yes|no", **files} for name in names]


def as_table(rows: Rows, kind: str, *, separator: str = ",", encoding: str = "utf-8") -> bytes:
    """Rows as a file of a kind; what a kind cannot hold becomes text."""
    match kind:
        case ".csv":
            return _csv(rows, separator).encode(encoding, errors="replace")
        case ".json":
            return json.dumps(rows, default=str).encode()
        case ".jsonl":
            return "\n".join(json.dumps(row, default=str) for row in rows).encode()
        case _:
            return _parquet(rows)


def _csv(rows: Rows, separator: str) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row)) or ["text"]
    written = io.StringIO()
    writer = csv.writer(written, delimiter=separator, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row.get(name, "") for name in columns] for row in rows)
    return written.getvalue()


def _parquet(rows: Rows) -> bytes:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.Table.from_pylist(rows)
        sink = io.BytesIO()
        pyarrow.parquet.write_table(table, sink)
    except (pyarrow.ArrowException, UnicodeError, OverflowError, TypeError, ValueError):
        return _parquet([{name: repr(value)[:99] for name, value in row.items()} for row in rows] or [{"text": "a"}])
    return sink.getvalue()


@st.composite
def mutated(draw: st.DrawFn, sound: Rows, name: str, more: Sequence[tuple[str, bytes]] = ()) -> Mutant:
    """A table of some kind, mutated in its rows, its separator and encoding, or its bytes."""
    kind = draw(st.sampled_from(KINDS))
    table: Any = sound
    if draw(st.booleans()):
        table = draw(mutated_tree(sound, COLUMNS))
        table = [row if isinstance(row, dict) else {"text": row} for row in table if row is not None]
    if draw(st.booleans()) and table:
        table = [*table, {**table[0], draw(st.sampled_from(COLUMNS)): draw(odd_values())}]
    content = as_table(
        table,
        kind,
        separator=draw(st.sampled_from([",", ",", ";", "\t", "|"])),
        encoding=draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "shift_jis"])),
    )
    if draw(st.integers(0, 2)) == 0:
        content = draw(mutated_bytes(content))
    return Mutant({f"{name}{kind}": content, **dict(more)})
