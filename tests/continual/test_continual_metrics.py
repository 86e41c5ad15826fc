"""The survey's metrics of continual learning, against what was computed by hand, and against their definitions."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loragen.continual.metrics import ContinualScores
from loragen.errors import ConfigError

NAN = math.nan
R = [[0.8, 0.3, 0.1], [0.6, 0.9, 0.4], [0.5, 0.7, 0.6]]


def test_three_tasks_by_hand():
    made = ContinualScores.of(R, alone=[0.7, 0.8, 0.9], joint=[0.9, 0.9, 0.8], base=[0.2, 0.1, 0.2])
    assert made.average == pytest.approx((0.8, (0.6 + 0.9) / 2, (0.5 + 0.7 + 0.6) / 3))
    assert made.aa == pytest.approx(0.6)
    assert made.aia == pytest.approx((0.8 + 0.75 + 0.6) / 3)
    assert made.fm == pytest.approx(((0.8 - 0.5) + (0.9 - 0.7)) / 2)
    assert made.bwt == pytest.approx(((0.5 - 0.8) + (0.7 - 0.9)) / 2)
    assert made.fwt == pytest.approx(((0.9 - 0.8) + (0.6 - 0.9)) / 2)
    assert made.im == pytest.approx(0.8 - 0.6)
    assert made.zero_shot == pytest.approx((((0.3 - 0.1) + (0.1 - 0.2)) / 2 + (0.4 - 0.2)) / 2)


def test_groups_by_hand():
    made = ContinualScores.of(
        [[0.4, 0.6, 0.2, 0.1], [0.5, 0.3, 0.7, 0.4]], [[0, 1], [2]], alone=[0.1] * 4, joint=[0.9] * 4, base=[0.1] * 4
    )
    assert made.average == pytest.approx((0.5, 0.5))
    assert made.fm == pytest.approx((-0.1 + 0.3) / 2)
    assert made.bwt == pytest.approx((0.1 - 0.3) / 2)
    assert made.fwt == pytest.approx(0.6)
    assert made.im == pytest.approx(0.2)
    # The fourth task never arrives, so there is one to come at the last moment too.
    assert made.zero_shot == pytest.approx(((0.1 + 0.0) / 2 + 0.3) / 2)


def test_what_was_best_before_it_arrived_counts_as_forgotten():
    """The survey's maximum runs over all moments before the last."""
    made = ContinualScores.of([[0.5, 0.9, 0.1], [0.5, 0.6, 0.1], [0.5, 0.6, 0.1]])
    assert made.fm == pytest.approx((0 + 0.3) / 2)
    assert made.bwt == 0


def test_cells_that_were_not_measured_are_left_out():
    rows = [[0.8, NAN, NAN], [NAN, 0.9, NAN], [0.5, 0.7, 0.6]]
    made = ContinualScores.of(rows, base=[0.1, 0.1, NAN])
    assert made.average == pytest.approx((0.8, 0.9, 0.6))
    assert made.fm == pytest.approx(((0.8 - 0.5) + (0.9 - 0.7)) / 2)
    assert (made.fwt, made.im, made.zero_shot) == (None, None, None)
    assert ContinualScores.of([[0.8], [NAN, 0.9], [0.5, 0.7, 0.6]]) == ContinualScores.of(rows)
    lost = ContinualScores.of([[0.8], [0.7, 0.9], [NAN, 0.7, 0.6]])
    assert lost.fm == pytest.approx(0.9 - 0.7)
    assert lost.aa == pytest.approx((0.7 + 0.6) / 2)


def test_one_task_has_an_average_and_forgets_nothing():
    made = ContinualScores.of([[0.7]], joint=[0.9], alone=[0.9], base=[0.1])
    assert (made.aa, made.aia, made.im) == pytest.approx((0.7, 0.7, 0.2))
    assert (made.fm, made.bwt, made.fwt, made.zero_shot) == (None, None, None, None)


def test_they_are_json_and_back():
    made = ContinualScores.of(R)
    assert ContinualScores.model_validate(json.loads(made.model_dump_json())) == made


@pytest.mark.parametrize(
    ("scores", "groups", "beside", "message"),
    [
        ([], None, {}, "no scores"),
        ([[]], None, {}, "no scores"),
        ([[1.0, 2.0]], [[0], [1]], {}, "1 rows of scores for 2 groups"),
        ([[1.0], [1.0]], [[0], [0]], {}, "different positions from 0 to 0"),
        ([[1.0]], [[-1]], {}, "different positions"),
        ([[1.0], [1.0]], None, {}, "different positions"),
        ([[math.inf]], None, {}, "infinite"),
        ([[1.0]], None, {"base": [1.0, 2.0]}, "'base' are 2 for 1 tasks"),
        ([[1.0]], None, {"joint": [math.inf]}, "'joint'"),
    ],
)
def test_what_does_not_fit_is_refused(scores, groups, beside, message):
    with pytest.raises(ConfigError, match=message):
        ContinualScores.of(scores, groups, **beside)


SCORES = st.floats(0, 1)


@given(st.lists(SCORES, min_size=1, max_size=6))
def test_rows_that_are_equal_forget_and_gain_nothing(row):
    made = ContinualScores.of([row] * len(row), base=row)
    assert (made.fm, made.bwt, made.zero_shot) == ((None,) * 3 if len(row) == 1 else (0, 0, 0))


@st.composite
def grouped(draw):
    """A matrix with holes, its groups, scores beside it, and the same with the tasks of each group in another order."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    width = sum(sizes) + draw(st.integers(0, 2))
    row = st.lists(SCORES | st.just(NAN), min_size=width, max_size=width)
    table = draw(st.lists(row, min_size=len(sizes), max_size=len(sizes)))
    beside = {name: draw(row) for name in ("alone", "joint", "base")}
    places, groups = list(range(width)), []
    for size in sizes:
        start = sum(map(len, groups))
        groups.append(list(range(start, start + size)))
    order = [task for group in groups for task in draw(st.permutations(group))]
    order += places[len(order) :]
    return table, groups, beside, order


@given(grouped())
def test_the_order_of_tasks_within_a_group_changes_nothing(made):
    table, groups, beside, order = made
    one = ContinualScores.of(table, groups, **beside)
    mixed = {name: [values[task] for task in order] for name, values in beside.items()}
    assert ContinualScores.of([[row[task] for task in order] for row in table], groups, **mixed) == one
    assert ContinualScores.of(table, [list(reversed(group)) for group in groups], **beside) == one


@given(grouped())
def test_forgetting_is_at_least_the_loss_since_arrival(made):
    """FM is the loss since the best moment, and -BWT that since one of them."""
    table, groups, _, _ = made
    whole = [[0.5 if math.isnan(score) else score for score in row] for row in table]
    scores = ContinualScores.of(whole, groups)
    if scores.fm is not None:
        assert scores.fm >= -scores.bwt - 1e-12
