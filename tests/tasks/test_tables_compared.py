"""Any table in any format gives what its writer meant or a `LoragenError`, and so does any damaged file."""

import csv
import io
import json
import tempfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loragen.errors import LoragenError
from loragen.tasks.columns import MISSING
from loragen.tasks.examples import Examples

CELLS = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.sampled_from(
        ["good", "bad", " good ", "Good", "nan", "NA", "1", "0", "1.0", "", " ", "\u200b", 'a,"b;c"\nd\t|']
    ),
)
LABELS = st.one_of(st.sampled_from(["good", "bad", "so so"]), CELLS)
ROWS = st.lists(st.tuples(CELLS, LABELS), min_size=1, max_size=8)


def as_csv(rows, separator=","):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=separator, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    return file.getvalue().encode()


def as_parquet(rows):
    file = io.BytesIO()
    texts, labels = zip(*rows, strict=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": list(texts), "label": list(labels)}), file)
    return file.getvalue()


def objects(rows):
    return [{"text": text, "label": label} for text, label in rows]


WRITERS = {
    ".csv": as_csv,
    ".tsv": lambda rows: as_csv(rows, "\t"),
    ".jsonl": lambda rows: "".join(json.dumps(row) + "\n" for row in objects(rows)).encode(),
    ".json": lambda rows: json.dumps(objects(rows)).encode(),
    ".parquet": as_parquet,
}
IN_TEMPORARY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def read(content, suffix, *names):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"mine{suffix}")
        path.write_bytes(content)
        return Examples.from_file(path, *names)


@IN_TEMPORARY
@given(ROWS, st.sampled_from(sorted(WRITERS)))
def test_what_is_read_is_what_was_written(rows, suffix):
    try:
        examples = read(WRITERS[suffix](rows), suffix)
    except LoragenError:
        return
    texts, labels = zip(*rows, strict=True)
    assert examples.texts == texts
    if examples.labels is not None:
        assert examples.outputs == tuple(label.strip() for label in labels)
        assert not set(examples.outputs) & {*MISSING, ""}


@IN_TEMPORARY
@given(
    st.lists(
        st.tuples(st.text("abc ,;|\t\"'\n", min_size=1).map(lambda text: f"x{text}"), st.sampled_from(["good", "bad"])),
        min_size=1,
        max_size=8,
    )
)
def test_plain_tables_are_accepted_in_every_format(rows):
    wanted = tuple(rows)
    for suffix, write in WRITERS.items():
        examples = read(write(rows), suffix)
        assert tuple(zip(examples.texts, examples.outputs, strict=True)) == wanted, suffix


@IN_TEMPORARY
@given(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=8), st.sampled_from(sorted(WRITERS)), st.booleans())
def test_numbers_are_positions_in_every_format(numbers, suffix, is_float):
    names = ("bad", "so so", "good")
    rows = [(f"soup {place}", float(number) if is_float else number) for place, number in enumerate(numbers)]
    assert read(WRITERS[suffix](rows), suffix, names).labels == tuple(numbers)


MUTATED = b"\0\xff\"'\n\r,;|\t{}[]:\\\x1f\x8bPAR1nan09"


@IN_TEMPORARY
@given(st.data(), st.sampled_from(sorted(WRITERS)))
def test_damaged_files_are_read_or_refused_in_one_line(data, suffix):
    content = bytearray(WRITERS[suffix]([("soup", "good"), ("tea, cold", "bad")] * 3))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(content) - 1))
        byte = data.draw(st.one_of(st.sampled_from(MUTATED), st.integers(0, 255)))
        match data.draw(st.sampled_from(["set", "insert", "cut", "double"])):
            case "set":
                content[at] = byte
            case "insert":
                content.insert(at, byte)
            case "cut":
                del content[at : at + data.draw(st.integers(1, 9))]
                content = content or bytearray(b"x")
            case "double":
                content[at:at] = content[at : at + 40]
    try:
        examples = read(bytes(content), suffix)
    except LoragenError as error:
        assert len(str(error)) < 1_000  # noqa: PT017 - either is right
        return
    assert len(examples.texts) > 0
