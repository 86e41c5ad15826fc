import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.errors import TaskError
from loragen.tasks.examples import Examples

PAIR = Examples(
    ("warm soup", "tea", "bread"),
    pairs=("cold", "hot", "dry"),
    labels=(1, 0, 1),
    label_names=("drink", "food", "other"),
    completions=("one", "two", "three"),
    images=(Path("a.png"), Path("b.png"), Path("c.png")),
)


@given(st.data())
def test_subset_picks_every_part_alike(data):
    size = data.draw(st.integers(1, 8))
    numbers = range(size)
    examples = Examples(
        texts=tuple(f"t{i}" for i in numbers),
        pairs=tuple(f"p{i}" for i in numbers),
        labels=tuple(numbers),
        label_names=tuple(f"l{i}" for i in numbers),
        completions=tuple(f"c{i}" for i in numbers),
        images=tuple(Path(f"i{i}") for i in numbers),
    )
    picked = data.draw(st.lists(st.integers(0, size - 1)))
    part = examples.subset(torch.tensor(picked, dtype=torch.long))
    assert part.labels == tuple(picked)
    assert part.label_names == examples.label_names
    for name, letter in (("texts", "t"), ("pairs", "p"), ("completions", "c")):
        assert getattr(part, name) == tuple(f"{letter}{i}" for i in picked)
    assert part.images == tuple(Path(f"i{i}") for i in picked)
    assert len(part) == len(picked)


def test_parts_that_are_not_known_stay_unknown_in_a_subset():
    assert Examples(("a", "b")).subset([1]) == Examples(("b",))


def test_outputs_are_the_names_of_labels_or_else_completions_or_nothing():
    assert PAIR.outputs == ("food", "drink", "food")
    assert replace(PAIR, labels=None).outputs == ("one", "two", "three")
    assert Examples(("a",), label_names=("yes", "no")).outputs is None


def test_without_labels_texts_pairs_and_images_are_all_that_is_left_with_the_names_of_the_classes():
    bare = PAIR.unlabelled()
    assert bare == replace(PAIR, labels=None, completions=None)
    assert bare.outputs is None
    assert bare.label_names == PAIR.label_names
    assert PAIR.labels == (1, 0, 1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pairs": ("x",)}, "1 pairs for 2 texts; give one a text"),
        ({"labels": (0, 0, 0), "label_names": ("a", "b")}, "3 labels for 2 texts"),
        ({"completions": ()}, "0 completions for 2 texts"),
        ({"images": (Path("x.png"),)}, "1 images for 2 texts"),
        ({"labels": (0, 2), "label_names": ("a", "b")}, "the label 2, .* 2 names"),
        ({"labels": (-1, 0), "label_names": ("a", "b")}, "the label -1, .* 2 names"),
        ({"labels": (0, 0)}, "the label 0, .* 0 names"),
    ],
)
def test_parts_that_do_not_fit_the_texts_are_refused(fields, message):
    with pytest.raises(TaskError, match=message):
        Examples(("a", "b"), **fields)


def test_few_are_drawn_of_each_class_and_differ_by_seed():
    names = ("a", "b", "c")
    examples = Examples(tuple("abcdefghij"), labels=(0,) * 6 + (1,) * 3 + (2,), label_names=names)
    first, again, other = (examples.few(2, rng=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert sorted(first.labels) == [0, 0, 1, 1, 2]
    assert first == again
    assert set(first.texts) != set(other.texts)
    true = dict(zip(examples.texts, examples.labels, strict=True))
    assert [true[text] for text in first.texts] == list(first.labels)
    assert first.label_names == names
    assert len(examples.few(9, rng=torch.Generator())) == 10


def test_few_of_a_task_without_classes_are_so_many_in_all():
    examples = Examples(tuple("abcdefghij"), completions=tuple("ABCDEFGHIJ"))
    few = examples.few(3, rng=torch.Generator().manual_seed(0))
    assert len(set(few.texts)) == 3
    assert few.completions == tuple(text.upper() for text in few.texts)
    assert len(examples.unlabelled().few(4, rng=torch.Generator())) == 4


# --- from files ----------------------------------------------------------------------------------------------------

ROWS = [
    {"text": "warm, red soup", "label": "good", "text_pair": "cold tea"},
    {"text": "tea", "label": " bad ", "text_pair": " bread "},
]


def write(path, rows):
    """JSONL or CSV, by the ending; a column that a row lacks is an empty cell in CSV."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        columns = list(dict.fromkeys(name for row in rows for name in row))
        lines = [columns, *([row.get(name, "") for name in columns] for row in rows)]
        path.write_text("".join(",".join(f'"{cell}"' for cell in line) + "\n" for line in lines))
    return path


def only(*names):
    return [{name: row[name] for name in names} for row in ROWS]


@pytest.mark.parametrize("file", ["few.jsonl", "few.csv"])
@pytest.mark.parametrize("has_labels", [True, False])
@pytest.mark.parametrize("has_pairs", [True, False])
def test_examples_are_read_from_a_file(tmp_path, file, has_labels, has_pairs):
    rows = only("text", *["label"] * has_labels, *["text_pair"] * has_pairs)
    assert Examples.from_file(write(tmp_path / file, rows)) == Examples(
        ("warm, red soup", "tea"),
        labels=(0, 1) if has_labels else None,
        label_names=("good", "bad") if has_labels else (),
        pairs=("cold tea", "bread") if has_pairs else None,
    )


def test_labels_are_numbered_in_the_order_of_the_names_given_or_else_of_the_file(tmp_path):
    labels = ("yes", "no", "yes")
    rows = [{"text": text, "label": label} for text, label in zip("abc", labels, strict=True)]
    path = write(tmp_path / "few.jsonl", rows)
    found, named = Examples.from_file(path), Examples.from_file(path, ["no", "maybe", "yes"])
    assert (found.labels, found.label_names) == ((0, 1, 0), ("yes", "no"))
    assert (named.labels, named.label_names) == ((2, 0, 2), ("no", "maybe", "yes"))
    assert found.outputs == named.outputs == labels


def test_examples_without_labels_keep_the_names_given(tmp_path):
    path = write(tmp_path / "few.jsonl", [{"text": "soup"}])
    assert Examples.from_file(path, ["yes", "no"]) == Examples(("soup",), label_names=("yes", "no"))


def test_a_label_that_is_not_among_the_names_given_is_refused(tmp_path):
    path = write(tmp_path / "few.jsonl", [{"text": "soup", "label": "yes"}, {"text": "tea", "label": "no"}])
    with pytest.raises(TaskError, match=r"few\.jsonl:2 has the label 'no', which is not among those named: yes, nein"):
        Examples.from_file(path, ["yes", "nein"])


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_columns_without_any_value_count_as_missing(tmp_path, blank):
    path = write(tmp_path / "few.jsonl", [{"text": text, "label": blank, "text_pair": blank} for text in ("soup", "t")])
    assert Examples.from_file(path) == Examples(("soup", "t"))


@pytest.mark.parametrize("column", ["label", "text_pair"])
@pytest.mark.parametrize("gap", [{}, {"label": "", "text_pair": ""}, {"label": " ", "text_pair": " "}])
@pytest.mark.parametrize(("file", "line"), [("few.jsonl", 2), ("few.csv", 3)])
def test_a_column_filled_in_some_rows_alone_is_refused_with_the_place(tmp_path, column, gap, file, line):
    gap = {name: value for name, value in gap.items() if name == column}
    first, _ = only("text", column)
    path = write(tmp_path / file, [first, {"text": "tea", **gap}, first])
    with pytest.raises(TaskError, match=rf"{file}:{line} has no '{column}', but other rows of .*{file} have; fill it"):
        Examples.from_file(path)


@pytest.mark.parametrize(
    ("name", "content"), [("few.jsonl", ""), ("few.jsonl", "\n\n"), ("few.csv", "text,label\n"), ("few.json", "[]")]
)
def test_a_file_without_examples_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(TaskError, match=rf"{name} holds no example; at least one row with a text"):
        Examples.from_file(tmp_path / name)


@pytest.mark.parametrize("row", [{"label": "good"}, {"body": "soup", "label": "good"}])
def test_a_row_without_a_column_of_texts_is_refused(tmp_path, row):
    path = write(tmp_path / "few.jsonl", [{"text": "soup", "label": "good"}, row])
    with pytest.raises(TaskError, match=r"few\.jsonl:2 has no column 'text'; columns met: .*label"):
        Examples.from_file(path)


def test_a_row_without_a_text_is_refused(tmp_path):
    path = write(tmp_path / "few.jsonl", [{"text": "soup"}, {"text": " "}])
    with pytest.raises(TaskError, match=r"few\.jsonl:2: .*a non-empty text was wanted"):
        Examples.from_file(path)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(TaskError, match=r"Cannot read .*few\.jsonl"):
        Examples.from_file(tmp_path / "few.jsonl")
