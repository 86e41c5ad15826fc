"""Columns of a file: by their own names, by names in other capitals, by usual names for the same, or by choice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.errors import TaskError
from loragen.tasks.columns import SYNONYMS, find_column
from loragen.tasks.examples import Examples


def write(folder, header, name="mine.csv"):
    path = folder / name
    path.write_text(f"{header}\nsoup,good,1\ntea,bad,2\n")
    return path


@pytest.mark.parametrize(
    "header", ["Text,Label,n", "TEXT, label ,n", "Sentence,Class,n", "review,INTENT,n", "body,category,n"]
)
def test_header_variants_are_found_and_said(tmp_path, header):
    examples = Examples.from_file(write(tmp_path, header))
    assert (examples.texts, examples.outputs) == (("soup", "tea"), ("good", "bad"))
    said = " ".join(examples.notes)
    if "label" not in header:
        of_texts, of_labels, _ = header.split(",")
        assert f"Texts are taken from the column '{of_texts}'" in said
        assert f"Labels are taken from the column '{of_labels}'" in said


def test_exact_names_go_first_and_are_not_remarked(tmp_path):
    examples = Examples.from_file(write(tmp_path, "text,label,Text"))
    assert (examples.texts, examples.notes) == (("soup", "tea"), ())
    assert Examples.from_file(write(tmp_path, "text,label,category")).outputs == ("good", "bad")


def test_several_columns_that_could_be_meant_are_named(tmp_path):
    with pytest.raises(
        TaskError, match=r"mine\.csv has no column 'text', and several .*: review, body\. .*--text-column"
    ):
        Examples.from_file(write(tmp_path, "review,label,body"))
    unsure = Examples.from_file(write(tmp_path, "text,category,target"))
    assert unsure.labels is None
    assert "several that could be meant: category, target" in unsure.notes[0]


def test_columns_can_be_chosen(tmp_path):
    path = write(tmp_path, "review,category,body")
    examples = Examples.from_file(path, text_column="review", label_column="category")
    assert (examples.outputs, examples.notes) == (("good", "bad"), ())
    with pytest.raises(TaskError, match=r"no column 'Body'; columns met: review, category, body"):
        Examples.from_file(path, text_column="Body")


def test_a_file_without_a_header_is_answered_with_the_columns_met(tmp_path):
    with pytest.raises(TaskError, match=r"no column 'text'; columns met: soup, good, 1\. Rename one"):
        Examples.from_file(write(tmp_path, "soup,good,1"))


def test_a_column_taken_by_guess_need_not_hold_labels(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("text,target\nsoup,0.53\ntea,0.9\n")
    examples = Examples.from_file(path)
    assert examples.labels is None
    assert "No labels are read: The labels of" in examples.notes[0]
    with pytest.raises(TaskError, match=r"are numbers, such as '0\.53'"):
        Examples.from_file(path, label_column="target")


def test_usual_names_belong_to_one_meaning():
    assert not set(SYNONYMS["text"]) & set(SYNONYMS["label"])


@given(st.lists(st.sampled_from(["text", "Text", "TEXT", "review", "body", "x", ""]), unique=True))
def test_the_column_found_is_the_nearest_or_none(columns):
    try:
        found = find_column(columns, "text", place="here")
    except TaskError:
        assert "text" not in columns
        assert len({"Text", "TEXT"} & set(columns)) == 2 or len({"review", "body"} & set(columns)) == 2
        return
    if "text" in columns:
        assert found == "text"
    else:
        assert found is None or found in columns
        assert (found is None) == (not set(columns) & {"Text", "TEXT", "review", "body"})
