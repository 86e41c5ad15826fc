"""CSV as people write it: separators, quotes, line ends, long cells, packed files, and what is no CSV."""

import csv
import gzip
import threading

import pytest

from loragen.errors import TaskError
from loragen.tasks.examples import Examples

SOUP = (("soup, hot; sour | sweet\tsalty", "good"), ("tea", "bad"))


def read(folder, content, name="mine.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Examples.from_file(path)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["mine.csv", "mine.tsv"])
def test_separators_are_found_in_the_header(tmp_path, separator, end, name):
    with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file, delimiter=separator, lineterminator=end)
        writer.writerows([("text", "label"), *SOUP])
    examples = Examples.from_file(tmp_path / name)
    assert tuple(zip(examples.texts, examples.outputs, strict=True)) == SOUP


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text", {"text"}),
        ("a|b,text", {"a|b", "text"}),
        ("id;text,x", {"id", "text,x"}),
        ("x,y;z,w", {"x", "y;z", "w"}),
    ],
)
def test_the_separator_with_the_most_known_names_is_taken_then_that_with_the_most_names(tmp_path, header, columns):
    from loragen.tasks.tables import read_table

    (tmp_path / "mine.csv").write_text(f"{header}\n1\n")
    assert set(read_table(tmp_path / "mine.csv").columns) == columns


def test_cells_may_be_as_long_as_texts_and_the_limit_of_others_stays(tmp_path):
    before = csv.field_size_limit()
    text = "soup " * 60_000
    assert read(tmp_path, f"text,label\n{text},good\ntea,bad\n").texts[0] == text
    with pytest.raises(TaskError, match=r"mine\.csv:2 is not CSV: field larger than field limit \(1000000\)"):
        read(tmp_path, f"text,label\n{'soup ' * 210_000},good\n")
    assert csv.field_size_limit() == before


def test_the_limit_of_cells_is_kept_by_readers_side_by_side(tmp_path):
    text, before = "soup " * 40_000, csv.field_size_limit()
    (tmp_path / "mine.csv").write_text(f"text\n{text}\n")
    read_texts = []
    threads = [
        threading.Thread(target=lambda: read_texts.append(Examples.from_file(tmp_path / "mine.csv").texts[0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_texts == [text] * 8
    assert csv.field_size_limit() == before


def test_blank_lines_unnamed_columns_and_quoted_line_breaks(tmp_path):
    examples = read(tmp_path, '\n\n,text,label,\n0,"soup\nof ""today""",good,\n\n1,tea,bad,\n')
    assert examples.texts == ('soup\nof "today"', "tea")
    assert examples.outputs == ("good", "bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,text,label\na,b,c\n", "names the column 'text' twice"),
        ("text, text\na,b\n", "names the column 'text' twice"),
        ("text,label\na,b,c\n", r"mine\.csv:2 has more cells than the header"),
        ('text,label\n"a,b\n', "is not CSV: unexpected end of data"),
        ("text,label\n", "holds no example"),
        ("", "holds no example"),
        ("\n\n", "holds no example"),
        ("text,label\na\0b,good\n", r"mine\.csv:2 holds NUL bytes"),
        ("text,label\na,good\n".encode("utf-16"), "is not UTF-8 but UTF-16; convert it"),
        ("text,label\na,good\n".encode("utf-32"), "is not UTF-8 but UTF-16; convert it"),
        ("text,label\na,good\n".encode("utf-16-le"), "holds NUL bytes, as UTF-16"),
        ("text,label\ncafé,good\n".encode("cp1252"), "is not UTF-8 .*0xe9.* iconv -f CP1252"),
        (gzip.compress(b"text\na\n", mtime=0), "is a gzip file under another name"),
        (b"PK\x03\x04 a workbook", r"is a zip \(as \.xlsx is\) file under another name"),
        (b"PAR1", "is a Parquet file under another name"),
    ],
)
def test_what_is_no_csv_is_named(tmp_path, content, message):
    with pytest.raises(TaskError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.csv.gz", "text,label\nsoup,good\ntea,bad\n"),
        ("mine.TSV.GZ", "text\tlabel\nsoup\tgood\ntea\tbad\n"),
        ("mine.jsonl.gz", '{"text": "soup", "label": "good"}\n{"text": "tea", "label": "bad"}\n'),
        ("mine.json.gz", '[{"text": "soup", "label": "good"}, {"text": "tea", "label": "bad"}]'),
    ],
)
def test_packed_files_are_read(tmp_path, name, content):
    packed = gzip.compress(content.encode())
    assert read(tmp_path, packed, name).outputs == ("good", "bad")
    with pytest.raises(TaskError, match="is not a whole gzip file"):
        read(tmp_path, packed[:-4], name)
    with pytest.raises(TaskError, match="is not a whole gzip file"):
        read(tmp_path, content, name)


def test_a_text_file_holds_a_text_a_line(tmp_path):
    assert read(tmp_path, "\ufeffone, two\n\n  three \r\n", "mine.txt") == Examples(("one, two", "three"))
