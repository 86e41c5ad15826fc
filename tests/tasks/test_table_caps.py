"""Nothing hangs and nothing explodes: sizes are asked before work, and every fault is a line that names the file."""

import gzip
import json
import os
import time

import pytest

from loragen.errors import TaskError
from loragen.tasks import table_files, tables, words
from loragen.tasks.examples import Examples
from loragen.tasks.json_tables import parse_json


def refused(path, message, within=5.0):
    begun = time.process_time()
    with pytest.raises(TaskError, match=message) as caught:
        Examples.from_file(path)
    assert time.process_time() - begun < within
    assert len(str(caught.value)) < 1_000
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".parquet", ".txt", ".csv.gz"])
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    os.mkfifo(path)
    refused(path, "is a pipe or a device")
    path.unlink()
    path.mkdir()
    refused(path, "is a folder; name a file in it")
    path.rmdir()
    path.symlink_to(path)
    refused(path, "symbolic links")
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(path, "is a pipe or a device")


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="no /proc")
def test_memory_of_a_process_is_no_table(tmp_path):
    (tmp_path / "mine.csv").symlink_to("/proc/self/mem")
    refused(tmp_path / "mine.csv", "Cannot read .*Input/output error")


@pytest.mark.parametrize("name", ["a\0b.csv", "n" * 300 + ".csv", "~nobody/x.csv", "lost.csv"])
def test_names_that_no_file_can_have(tmp_path, name):
    refused(tmp_path / name, "Cannot read")


def test_a_large_file_is_refused_by_its_size(tmp_path):
    for name in ("mine.csv", "mine.parquet", "mine.jsonl"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(table_files.LARGEST + 1)  # a hole: nothing lies on the disk
        refused(tmp_path / name, "has 2,000,000,001 bytes, and 2,000,000,000 are the most")
    with (tmp_path / "mine.json").open("wb") as file:
        file.truncate(table_files.LARGEST_WHOLE + 1)
    refused(tmp_path / "mine.json", "has 256,000,001 bytes, and 256,000,000 are the most")


def test_what_unpacks_to_more_is_refused_as_it_unpacks(tmp_path, monkeypatch):
    monkeypatch.setattr(table_files, "LARGEST", 1_000_000)
    monkeypatch.setattr(table_files, "LARGEST_WHOLE", 1_000_000)
    for name, content in (("mine.json.gz", b" "), ("mine.csv.gz", b"text\n"), ("mine.txt.gz", b"soup\n")):
        (tmp_path / name).write_bytes(gzip.compress(content * 2_000_000))
        refused(tmp_path / name, "1,000,000 characters")


def test_rows_lines_and_texts_have_a_most(tmp_path, monkeypatch):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "' + "a" * 1_000_001 + '"}\n')
    refused(path, r"mine\.jsonl:1: the column 'text' has 1,000,001 characters, and 1,000,000 are the most")
    path.write_text('{"text": "' + "a" * 16_000_001 + '"}\n')
    refused(path, r"mine\.jsonl:1 has over 16,000,000 characters")
    monkeypatch.setattr(tables, "MOST_ROWS", 3)
    path.write_text('{"text": "a"}\n' * 4)
    refused(path, "has over 3 rows")
    monkeypatch.setattr(table_files, "MOST_LINES", 10)
    path.write_text("\n" * 11)
    refused(path, "or 10 lines")


def test_a_parquet_file_is_asked_for_its_rows_and_sizes_first(tmp_path, monkeypatch):
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "mine.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a" * 1_000] * 5_000}), path)
    monkeypatch.setattr(tables, "MOST_ROWS", 4_999)
    refused(path, "has 5,000 rows, and 4,999 are the most")
    pyarrow.parquet.write_table(pyarrow.table({f"c{number}": ["a"] for number in range(10_001)}), path)
    refused(path, "has 10,001 columns, and 10,000 are the most")


def test_labels_have_a_most_and_their_names_too(tmp_path, monkeypatch):
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"text": "a", "label": "b" * 1_001}) + "\n")
    refused(path, "has 1,001 characters, and 1,000 are the most")
    monkeypatch.setattr(words, "MOST_NAMES", 3)
    path.write_text("".join(json.dumps({"text": "a", "label": f"l{number}"}) + "\n" for number in range(4)))
    refused(path, "are 4 label names, and 3 are the most")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "is nested too deep"),
        ('{"a":' * 100_000, "is nested too deep"),
        ('[{"text": ' + "1" * 5_000 + "}]", "holds a number that is too long"),
        ('[{"text": "a", "text": "b"}]', "holds the key 'text' twice"),
        (
            '{"data": [{"text": "a"}]}',
            "holds dict; a JSON array .* Write the array under 'data' into a file of its own",
        ),
        ('{"text": {"0": "a"}, "label": {"0": "b"}}', "write it with orient='records'"),
        ('{"version": 2}', "Its keys are: version"),
        ('"text"', "holds str; a JSON array"),
    ],
)
def test_json_that_is_no_table(tmp_path, text, message):
    (tmp_path / "mine.json").write_text(text)
    refused(tmp_path / "mine.json", message)
    (tmp_path / "mine.jsonl").write_text(text)
    refused(tmp_path / "mine.jsonl", r"mine\.jsonl(:1| has no column 'text')")


def test_keys_are_compared_in_time_that_grows_with_their_number():
    many = json.dumps({str(number): 1 for number in range(200_000)})
    begun = time.process_time()
    with pytest.raises(TaskError, match="the key '199999' twice"):
        parse_json(many[:-1] + ', "199999": 2}', "here")
    assert time.process_time() - begun < 5
