"""Tasks read from every kind of file, and the faults of files named with their place."""

import pytest
from soup import ROWS, WRITERS, task

from loragen.errors import TaskError
from loragen.tasks.examples import Examples


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_file_kind_gives_the_same_examples(tmp_path, suffix):
    WRITERS[suffix](tmp_path / f"rows{suffix}", ROWS)
    examples = task(tmp_path, file=f"rows{suffix}").load_train()
    assert examples == Examples(texts=tuple(row["text"] for row in ROWS), labels=(0, 1, 1), label_names=("bad", "good"))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("rows.jsonl", '{"text": "x", "label": "bad"}\n\n{"text": ', r"rows\.jsonl:3 is not JSON"),
        ("rows.jsonl", '["x"]\n', r"rows\.jsonl:1 holds list"),
        (
            "rows.jsonl",
            '{"text": "x", "label": "ugly"}',
            r"rows\.jsonl:1 has the label 'ugly', which is not among those named: bad, good",
        ),
        (
            "rows.jsonl",
            '{"text": "x", "label": null}',
            r"rows\.jsonl has no value in the column 'label'; task soup wants",
        ),
        ("rows.jsonl", '{"text": "x", "label": 2}', r"the label 2, "),
        ("rows.jsonl", '{"text": " ", "label": "bad"}', r"rows\.jsonl:1: .*'text' holds ' '"),
        ("rows.jsonl", '{"text": 5, "label": "bad"}', r"'text' holds 5"),
        ("rows.jsonl", '{"body": "x", "label": "bad"}', r"no column 'text'; columns met: body, label"),
        ("rows.jsonl", "\n", r"rows\.jsonl holds no examples for task soup"),
        ("rows.jsonl", '{"text": "é"}'.encode("latin-1"), r"rows\.jsonl is not UTF-8"),
        ("rows.jsonl", '{"text": "x"}'.encode("utf-16"), r"rows\.jsonl is not UTF-8"),
        ("rows.json", '{"text": "x"}', r"rows\.json holds dict"),
        ("rows.csv", "text,label\nhi, there,bad\n", r"rows\.csv:2 has more cells"),
        ("rows.csv", "text,label\nhi\n", r"rows\.csv has no value in the column 'label'"),
        ("rows.csv", 'text,label\n"hi"x,bad\n', r"rows\.csv:2 is not CSV"),
        ("rows.parquet", "PAR1", r"rows\.parquet is not a readable Parquet"),
        ("rows.txt", "x", r"rows\.txt:1 has no column 'label'"),
        ("rows.xlsx", "x", r"rows\.xlsx ends in none of \.jsonl, \.json, \.csv, \.tsv, \.txt, \.parquet; convert it"),
    ],
)
def test_damaged_files_are_named_with_their_place(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TaskError, match=message):
        task(tmp_path, file=file).load_train()
