"""Numbers and the names at hand for them, missing values, and names that cannot be told apart."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from soup import write_jsonl

from loragen.errors import TaskError
from loragen.tasks.columns import MISSING
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSource
from loragen.zoo.init import init_zoo

KINDS = (".csv", ".jsonl", ".json", ".parquet")


def write(folder, rows, suffix, classes=None):
    """Rows in a file of some kind; ``classes`` names numbered labels as the library ``datasets`` does in Parquet."""
    path = folder / f"mine{suffix}"
    if suffix == ".csv":
        cells = [list(rows[0]), *(row.values() for row in rows)]
        path.write_text("".join(",".join("" if c is None else str(c) for c in line) + "\n" for line in cells))
    elif suffix == ".jsonl":
        write_jsonl(path, rows)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        table = pyarrow.Table.from_pylist(rows)
        if classes is not None:
            features = {
                "text": {"dtype": "string", "_type": "Value"},
                "label": {"names": classes, "_type": "ClassLabel"},
            }
            written = {"huggingface": json.dumps({"info": {"features": features}})}
            table = table.replace_schema_metadata(written)
        pyarrow.parquet.write_table(table, path)
    return path


def rows_of(*labels, **beside):
    rows = [{"text": f"soup {number}", "label": label} for number, label in enumerate(labels)]
    return [row | {name: values[number] for name, values in beside.items()} for number, row in enumerate(rows)]


# --- numbers ---


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("values", [(1, 0, 1), (1.0, 0.0, 1.0)])
def test_numbers_are_positions_among_the_names_given_or_known_and_no_names(tmp_path, suffix, values):
    path = write(tmp_path, rows_of(*values), suffix)
    for examples in (Examples.from_file(path, ("no", "yes")), Examples.from_file(path, known=("no", "yes"))):
        assert examples.outputs == ("yes", "no", "yes")
        assert examples.label_names == ("no", "yes")
    with pytest.raises(
        TaskError, match=r"are numbers, such as .*; name them in their order, as in --labels first,second"
    ):
        Examples.from_file(path)
    with pytest.raises(
        TaskError, match=r"has the label '?1(\.0)?'?, which is not among those named: no$|among .*: no\."
    ):
        Examples.from_file(path, ("no",))


@pytest.mark.parametrize("suffix", KINDS)
def test_numbers_are_names_where_the_names_given_are_numbers(tmp_path, suffix):
    path = write(tmp_path, rows_of(5, 1, 5), suffix)
    assert Examples.from_file(path, ("1", "5")).outputs == ("5", "1", "5")
    with pytest.raises(TaskError, match=r"has the label '?5"):
        Examples.from_file(path, ("1", "2"))


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("beside", ["label_text", "label_name", "Label_Text"])
def test_a_column_beside_the_numbers_names_them(tmp_path, suffix, beside):
    path = write(tmp_path, rows_of(1, 0, 1, **{beside: ("good", "bad", "good")}), suffix)
    examples = Examples.from_file(path)
    assert (examples.outputs, examples.label_names) == (("good", "bad", "good"), ("bad", "good"))
    assert Examples.from_file(path, ("good", "bad")).labels == (0, 1, 0), "by name, in whatever order"
    assert Examples.from_file(path, ("poor", "fine")).outputs == ("fine", "poor", "fine"), "the same in other words"
    with pytest.raises(TaskError, match=r"has the label '?0'? \('bad'\), which is not among those named: good, fine"):
        Examples.from_file(path, ("good", "fine"))


@pytest.mark.parametrize("names", [("good", "bad", "bad"), ("good", "bad", None), ("good", "Good", "good")])
def test_numbers_that_are_called_in_two_ways_are_refused(tmp_path, names):
    with pytest.raises(TaskError, match="'label_text'"):
        Examples.from_file(write(tmp_path, rows_of(1, 0, 1, label_text=names), ".jsonl"))


def test_names_go_before_a_column_beside_them(tmp_path):
    path = write(tmp_path, rows_of("x", "y", label_text=("good", "bad")), ".jsonl")
    assert Examples.from_file(path).label_names == ("x", "y")


def test_names_in_the_schema_of_parquet_are_used(tmp_path):
    path = write(tmp_path, rows_of(1, 0, 1), ".parquet", classes=["neg", "pos", "none of both"])
    examples = Examples.from_file(path)
    assert examples.outputs == ("pos", "neg", "pos")
    assert examples.label_names == ("neg", "pos", "none of both"), "also those that do not occur"
    assert Examples.from_file(path, ("pos", "neg")).labels == (0, 1, 0)
    task = Task(id="a", description="A.", labels=("pos", "neg"), source=TaskSource(train=str(path)))
    assert task.load_train().outputs == ("pos", "neg", "pos")


def test_minus_one_is_a_hidden_label_in_such_a_column_alone(tmp_path):
    hidden = write(tmp_path, rows_of(-1, -1), ".parquet", classes=["neg", "pos"])
    assert Examples.from_file(hidden).labels is None
    with pytest.raises(TaskError, match=r"row 2\) has no 'label' \(it holds -1"):
        Examples.from_file(write(tmp_path, rows_of(1, -1), ".parquet", classes=["neg", "pos"]))
    with pytest.raises(TaskError, match="has the label -1"):
        Examples.from_file(write(tmp_path, rows_of(1, -1), ".parquet"), ("neg", "pos"))


@pytest.mark.parametrize("classes", [5, ["a", 1], {"a": "b"}])
def test_names_in_the_schema_that_are_none_are_refused(tmp_path, classes):
    with pytest.raises(TaskError, match="has names for the column 'label' that are no texts"):
        Examples.from_file(write(tmp_path, rows_of(1, 0), ".parquet", classes=classes))


@pytest.mark.parametrize(
    "metadata", [b"{", b"[]", b'{"info": 5}', b'{"info": {"features": {"label": 3}}}', b"\xff", b"[" * 10**5]
)
def test_a_schema_that_says_nothing_is_left_aside_or_named(tmp_path, metadata):
    table = pyarrow.Table.from_pylist(rows_of("a", "b")).replace_schema_metadata({b"huggingface": metadata})
    pyarrow.parquet.write_table(table, tmp_path / "mine.parquet")
    if metadata in (b"{", b"\xff", b"[" * 10**5):
        with pytest.raises(TaskError, match=r"The schema of .*mine\.parquet is n"):
            Examples.from_file(tmp_path / "mine.parquet")
    else:
        assert Examples.from_file(tmp_path / "mine.parquet").outputs == ("a", "b")


def test_categories_are_texts(tmp_path):
    labels = pyarrow.array(["x", "y", "x"]).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "label": labels}), tmp_path / "mine.parquet")
    assert Examples.from_file(tmp_path / "mine.parquet").outputs == ("x", "y", "x")


def test_times_and_other_columns_beside_do_not_matter(tmp_path):
    table = pyarrow.table(
        {
            "text": ["a", "b"],
            "label": ["x", "y"],
            "when": pyarrow.array([1, 10**18 + 1], pyarrow.timestamp("ns")),
            "day": pyarrow.array([1, 2**31 - 1], pyarrow.date32()),
            "image": [b"\xff", b"\0"],
            "deep": [{"a": [{"b": 1}]}, None],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "mine.parquet")
    assert Examples.from_file(tmp_path / "mine.parquet").outputs == ("x", "y")
    with pytest.raises(TaskError, match=r"the column 'image' holds b'\\xff'; a non-empty text"):
        Examples.from_file(tmp_path / "mine.parquet", text_column="image")


# --- missing values ---


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("word", sorted(MISSING))
def test_words_for_missing_values_are_no_classes_unless_they_are_named(tmp_path, suffix, word):
    path = write(tmp_path, rows_of("good", word, "bad"), suffix)
    with pytest.raises(TaskError, match=r"has no 'label' \(it holds .*, which stands for a missing value\)"):
        Examples.from_file(path)
    assert Examples.from_file(path, ("bad", "good", word)).labels == (1, 2, 0)


@pytest.mark.parametrize("suffix", KINDS)
def test_texts_that_are_such_words_stay(tmp_path, suffix):
    rows = [{"text": word, "label": label} for word, label in zip(("nan", "NA", "None"), "xyx", strict=True)]
    assert Examples.from_file(write(tmp_path, rows, suffix)).texts == ("nan", "NA", "None")


@pytest.mark.parametrize("value", [True, 0.5, [1], {"a": 1}, 1e400])
def test_what_is_no_label_is_refused_by_tasks_and_zoos_too(tmp_path, value):
    rows = [{"task": "t"} | row for row in rows_of(value, *("a", "b") * 10)]
    path = write(tmp_path, rows, ".jsonl")
    task = Task(id="a", description="A.", labels=("a", "b"), source=TaskSource(train=str(path)))
    for read in (lambda: Examples.from_file(path), task.load_train, lambda: init_zoo(path, tmp_path / "zoo")):
        with pytest.raises(TaskError, match=r"mine\.jsonl:1: .*a label is a name"):
            read()


# --- names ---


@pytest.mark.parametrize("labels", [("Good", "good"), ("good ", "GOOD"), ("straße", "STRASSE")])
def test_labels_that_differ_in_capitals_alone_are_refused(tmp_path, labels):
    with pytest.raises(TaskError, match=r"differs from .* in capitals alone; give each label one name"):
        Examples.from_file(write(tmp_path, rows_of(*labels), ".jsonl"))


def test_blanks_around_labels_and_names_do_not_count(tmp_path):
    path = write(tmp_path, rows_of(" good", "bad ", "good"), ".jsonl")
    assert Examples.from_file(path).label_names == ("good", "bad")
    assert Examples.from_file(path, (" bad", "good\t")).labels == (1, 0, 1)


@pytest.mark.parametrize("text", ["", "  ", "\u200b", "\ufeff\u2060", "\u00a0", "\u3164", "\u2800\t"])
def test_texts_that_show_nothing_are_refused(tmp_path, text):
    with pytest.raises(TaskError, match=r"mine\.jsonl:1: .*a non-empty text was wanted"):
        Examples.from_file(write(tmp_path, [{"text": text}], ".jsonl"))


@pytest.mark.parametrize("text", ["\ud800", "soup \udfff", "so\0up"])
def test_half_characters_are_refused_wherever_they_enter(tmp_path, text):
    path = tmp_path / "mine.jsonl"
    for row in ({"text": text}, {"text": "a", "label": text}, {"text": "a", "text_pair": text}):
        path.write_text(json.dumps(row))
        with pytest.raises(TaskError, match=r"mine\.jsonl:1: .* holds the character U\+"):
            Examples.from_file(path)
    for made in (
        lambda: Examples((text,)),
        lambda: Examples(("a",), pairs=(text,)),
        lambda: Examples((), label_names=(text,)),
    ):
        with pytest.raises(TaskError, match=r"holds the character U\+"):
            made()


def test_labels_that_look_like_free_text_are_refused_and_short_ones_remarked(tmp_path):
    texts = [
        f"The soup of table {number} was cold when it came, and the bread was not there at all." for number in range(20)
    ]
    with pytest.raises(TaskError, match="look like free text: each row has one of its own, such as 'The soup"):
        Examples.from_file(write(tmp_path, rows_of(*texts), ".jsonl"))
    short = Examples.from_file(write(tmp_path, rows_of(*map("class {}".format, range(20))), ".jsonl"))
    assert short.notes == (f"Each of the 20 rows of {tmp_path / 'mine.jsonl'} has a label of its own in 'label'.",)


def test_scores_want_two_labels_and_two_texts():
    usual = Examples(("a", "b"), labels=(0, 1), label_names=("x", "y"))
    assert usual.checked_for_scores("Mine") is usual
    for change, message in (
        ({"labels": None}, "Mine has no labels; the true label of every text"),
        ({"labels": (1, 1)}, "Mine holds one label alone, 'y'"),
        ({"texts": ("a", "a")}, "The 2 texts of Mine are all equal: 'a'"),
    ):
        with pytest.raises(TaskError, match=message):
            Examples(**{"texts": ("a", "b"), "labels": (0, 1), "label_names": ("x", "y")} | change).checked_for_scores(
                "Mine"
            )
