"""Labels as people bring them: names, numbers, missing ones, and what is no label."""

import json
import math

import pytest

from loragen.errors import TaskError
from loragen.tasks.examples import Examples

TEXTS = ("soup", "tea", "bread")


def write(folder, labels):
    path = folder / "mine.jsonl"
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("missing", [None, math.nan, "", " "])
def test_a_missing_label_is_no_class(tmp_path, missing):
    with pytest.raises(TaskError, match=r"mine\.jsonl:2 has no 'label'"):
        Examples.from_file(write(tmp_path, ("a", missing, "b")))
    assert Examples.from_file(write(tmp_path, (missing,) * 3)).labels is None


@pytest.mark.parametrize("value", [["a"], {"a": 1}, True, 1.5])
def test_what_is_no_label_is_refused(tmp_path, value):
    with pytest.raises(TaskError, match="a label is a name, or its number"):
        Examples.from_file(write(tmp_path, ("a", value, "b")))


def test_numbers_are_places_among_the_names_given(tmp_path):
    examples = Examples.from_file(write(tmp_path, (1, 0, 1.0)), ("drink", "food"))
    assert examples.outputs == ("food", "drink", "food")
    with pytest.raises(TaskError, match="are numbers, such as 1; name them in their order"):
        Examples.from_file(write(tmp_path, (1, 0, 1)))
    with pytest.raises(TaskError, match="has the label 2, which is not among those named: drink, food"):
        Examples.from_file(write(tmp_path, (0, 1, 2)), ("drink", "food"))


def test_names_that_are_numbers_are_names(tmp_path):
    assert Examples.from_file(write(tmp_path, ("1", "5", "1")), ("5", "1")).labels == (1, 0, 1)


def test_parquet_with_a_missing_label(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"text": list(TEXTS), "label": [0.0, math.nan, 1.0]})
    pyarrow.parquet.write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(TaskError, match=r"row 2\) has no 'label'"):
        Examples.from_file(tmp_path / "mine.parquet", ("drink", "food"))
