"""A small task on disk, and its rows in every kind of file."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet

from loragen.tasks.task_set import Task, TaskSource

ROWS = [
    {"text": "the soup was cold, sadly", "label": "bad"},
    {"text": "lovely\u2028soup", "label": "good"},
    {"text": 'they said "hello"', "label": "good"},
]


def task(tmp_path=Path(), *, file="rows.jsonl", name="soup", **fields):
    source = {"train": str(tmp_path / file), "test": str(tmp_path / file), **fields.pop("source", {})}
    return Task(
        **{
            "id": name,
            "description": "Judge soup.",
            "labels": ("bad", "good"),
            "source": TaskSource(**source),
            **fields,
        }
    )


def write_jsonl(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


def write_csv(path, rows):
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row.values()) for row in rows]
    path.write_text("\n".join([",".join(rows[0]), *lines]), encoding="utf-8-sig")


WRITERS = {
    ".jsonl": write_jsonl,
    ".json": lambda path, rows: path.write_text(json.dumps(rows), encoding="utf-8"),
    ".csv": write_csv,
    ".parquet": lambda path, rows: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path),
}
