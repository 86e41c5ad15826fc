import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.bases.scores import Scores
from loragen.confidence.expected import ExpectedGain
from loragen.errors import ConfigError
from loragen.evaluation.cells import Cell, CellFile
from loragen.evaluation.controls import NONSENSE, OTHER, RIGHT
from loragen.evaluation.novelty import Novelty

SHORT = Scores(accuracy=0.25, macro_f1=0.2, cross_entropy=1.5, knn_accuracy=0.75)
WHOLE = Scores(accuracy=1 / 3, macro_f1=0.3, cross_entropy=0.1 + 0.2, knn_accuracy=2 / 3, v_measure=0.0)
NOVELTY = Novelty(0.0, math.inf, 1 / 7, "bank", (("bank", 0.75), ("card", 0.25)), is_replay=False)
CELLS = (
    Cell(adapter="0" * 16, task="mood", method="base", scores=WHOLE, short=SHORT, seconds=0.5),
    Cell(
        adapter="0" * 16,
        task="mood",
        method="mean",
        scores=WHOLE,
        short=SHORT,
        novelty=NOVELTY,
        forgetting=-0.0125,
        seconds=2,
    ),
    Cell(adapter="0" * 16, task="mood", method="sg", seed=2, control=OTHER, short=SHORT, seconds=0.125),
    Cell(adapter="0" * 16, task="rain", method="sg", control=NONSENSE, short=SHORT, forgetting=0.0, seconds=1e-3),
)

shares = st.floats(0, 1)
amounts = st.floats(0, allow_nan=False)
names = st.text(min_size=1)
scores = st.builds(
    Scores,
    accuracy=shares,
    macro_f1=shares,
    cross_entropy=st.floats(0, 1e6),
    knn_accuracy=shares,
    v_measure=st.none() | shares,
)
novelties = st.builds(
    Novelty, amounts, amounts, amounts, names, st.lists(st.tuples(names, shares)).map(tuple), st.booleans()
)
expectations = (
    st.lists(st.floats(-1, 1), min_size=3, max_size=3)
    .map(sorted)
    .map(lambda ends: ExpectedGain(low=ends[0], gain=ends[1], high=ends[2], knows="labels"))
)
any_cell = st.builds(
    Cell,
    task=names,
    method=names,
    control=st.just(RIGHT) | names,
    seed=st.integers(0, 2**31),
    scores=st.none() | scores,
    short=scores,
    novelty=st.none() | novelties,
    forgetting=st.none() | st.floats(-1, 1),
    expected=st.none() | expectations,
    seconds=st.floats(0, 1e6),
)


@pytest.fixture
def file(tmp_path):
    return CellFile(tmp_path / "new" / "cells.jsonl")


@pytest.fixture
def filled(file):
    for cell in CELLS:
        file.append(cell)
    return file


def cut(file, size):
    """Leave what an interruption left of the last line."""
    file.path.write_bytes(file.path.read_bytes()[:-size])


# --- there and back ---


def test_cells_are_read_as_they_were_written(filled):
    assert tuple(filled.read()) == CELLS
    assert len(filled.path.read_text().splitlines()) == len(CELLS), "a line a cell"


def test_without_a_file_there_are_no_cells(file):
    assert list(file.read()) == []
    file.mend()
    assert not file.path.exists()


@given(met=st.lists(any_cell, max_size=4))
def test_whatever_a_cell_holds_comes_back(met, tmp_path_factory):
    file = CellFile(tmp_path_factory.mktemp("cells") / "cells.jsonl")
    for cell in met:
        file.append(cell)
    file.mend()
    assert list(file.read()) == met


def test_infinity_and_none_are_told_apart(filled):
    base, mean, *_ = filled.read()
    assert (base.novelty, base.forgetting, base.scores.v_measure) == (None, None, 0.0)
    assert mean.novelty.to_nearest == math.inf
    assert isinstance(mean.novelty, Novelty)
    assert [type(value) for value in mean.novelty.mixture] == [tuple, tuple]


def test_a_cell_is_known_by_task_method_control_and_seed():
    assert CELLS[2].key == ("mood", "sg", OTHER, 2)
    assert CELLS[0].key == ("mood", "base", RIGHT, 0)


# --- interrupted in a line ---


@pytest.mark.parametrize("size", [1, 2, 40])
def test_a_line_that_was_cut_off_is_dropped(filled, size):
    cut(filled, size)
    assert tuple(filled.read()) == CELLS[:-1]


def test_a_mended_file_goes_on_with_a_line_of_its_own(filled):
    whole = b"".join(filled.path.read_bytes().splitlines(keepends=True)[:-1])
    cut(filled, 30)
    filled.mend()
    assert filled.path.read_bytes() == whole
    filled.append(CELLS[-1])
    assert tuple(filled.read()) == CELLS


def test_of_a_first_line_that_was_cut_off_nothing_is_left(file):
    file.append(CELLS[0])
    cut(file, 5)
    file.mend()
    assert file.path.read_bytes() == b""
    assert list(file.read()) == []
    file.append(CELLS[1])
    assert list(file.read()) == [CELLS[1]]


def test_whole_files_are_left_alone(filled):
    before = filled.path.read_bytes(), filled.path.stat().st_mtime_ns, filled.path.stat().st_ino
    filled.mend()
    assert (filled.path.read_bytes(), filled.path.stat().st_mtime_ns, filled.path.stat().st_ino) == before


# --- damaged ---


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"task": "mood", "meth', "damaged"),
        (b"\0" * 20, "damaged"),
        (b'{"task": "m\xff\xfeod"}', "damaged"),
        (b"", "damaged"),
        (b"[1, 2]", "does not fit Cell"),
        (b'{"task": "mood", "method": "base", "seconds": 1.0}', "short: Field required"),
    ],
    ids=["cut", "zeros", "no text", "empty", "no cell", "lacking"],
)
def test_a_damaged_whole_line_is_named_with_its_place(filled, line, what):
    lines = filled.path.read_bytes().splitlines()
    filled.path.write_bytes(b"\n".join([lines[0], line, *lines[1:], b""]))
    with pytest.raises(ConfigError, match=r"cells\.jsonl:2 ") as met:
        list(filled.read())
    assert what in str(met.value)


def test_scores_out_of_range_are_refused(filled):
    values = json.loads(filled.path.read_text().splitlines()[0])
    values["short"]["accuracy"] = 1.5
    filled.path.write_text(json.dumps(values) + "\n")
    with pytest.raises(ConfigError, match=r"Cell:\n  short\.labels\.accuracy: [^\n]*$"):
        list(filled.read())


@pytest.mark.parametrize("separator", ["\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\r", "\n"])
def test_what_else_may_end_a_line_ends_none_within_a_cell(file, separator):
    cell = CELLS[0].model_copy(update={"task": f"mo{separator}od"})
    file.append(cell)
    assert list(file.read()) == [cell]
