import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_toys import ACCURACY, KINDS, body_of, cell, make_cells

from loragen.confidence.expected import ExpectedGain
from loragen.evaluation.calibration import calibrate, calibration_rows, pairs_of, rank_correlation
from loragen.evaluation.cells import ALL
from loragen.evaluation.config import BASE
from loragen.evaluation.markdown import markdown
from loragen.evaluation.markdown_sections import calibration_section
from loragen.evaluation.report import make_report
from loragen.evaluation.report_model import Report


def told(gain, low=None, high=None, knows="labels"):
    return ExpectedGain(
        gain=gain, low=gain - 0.1 if low is None else low, high=gain + 0.1 if high is None else high, knows=knows
    )


def rng(seed=0):
    return np.random.default_rng(seed)


GAINS = {"cups": 0.2, "menus": 0.3, "ovens": 0.0, "plates": 0.1}
"""Of sg in the made-up cells."""
EXPECTED = {"cups": 0.15, "menus": 0.1, "ovens": 0.05, "plates": 0.3}


def expecting_cells(expected=EXPECTED, method="sg"):
    for one in make_cells():
        if one.method == method and one.control == "right" and one.task in expected:
            yield one.model_copy(update={"expected": told(expected[one.task])})
        else:
            yield one


# --- the figures ---


def test_figures_are_those_of_the_pairs():
    pairs = [(told(0.1), 0.2), (told(0.3), 0.1), (told(0.0), -0.3), (told(0.2), 0.15)]
    met = calibrate(pairs, rng())
    assert met.tasks == 4
    assert met.expected == pytest.approx(0.15)
    assert met.realised == pytest.approx(0.0375)
    assert met.error == pytest.approx((0.1 + 0.2 + 0.3 + 0.05) / 4)
    assert met.rank_correlation.mean == pytest.approx(0.2)  # ranks 2 4 1 3 and 4 2 1 3: 1 - 6 · 8 / 60
    assert met.coverage == 0.5


def test_the_ends_of_an_interval_belong_to_it():
    inside = [(told(0.0, -0.25, 0.5), gained) for gained in (-0.25, 0.5)]
    outside = [(told(0.0, -0.25, 0.5), gained) for gained in (-0.2501, 0.5001)]
    assert calibrate(inside, rng()).coverage == 1
    assert calibrate(outside, rng()).coverage == 0


def test_what_came_true_has_no_error_and_ranks_alike():
    met = calibrate([(told(gain), gain) for gain in (0.0, 0.1, 0.3, -0.2, 0.25)], rng())
    assert (met.error, met.coverage) == (0, 1)
    correlation = met.rank_correlation
    assert (correlation.mean, correlation.low, correlation.high) == pytest.approx((1, 1, 1))


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=3, max_size=12), st.integers(0, 9))
def test_rank_correlations_are_spearmans_with_ties(pairs, seed):
    from scipy.stats import spearmanr

    one, other = np.array(pairs, dtype=float).T / 10
    met = rank_correlation(one, other, rng(seed), resamples=50)
    if len(set(one)) == 1 or len(set(other)) == 1:
        assert met is None
    else:
        assert met.mean == pytest.approx(spearmanr(one, other).statistic)
        assert -1 - 1e-9 <= met.low <= met.high <= 1 + 1e-9


def test_intervals_narrow_with_tasks_and_are_those_of_the_random_source():
    noise = rng(7).normal(0, 0.1, (2, 400))
    one, other = noise[0], noise[0] + noise[1]
    few, many = (rank_correlation(one[:n], other[:n], rng()) for n in (12, 400))
    assert many.high - many.low < (few.high - few.low) / 3
    assert few.low < few.mean < few.high
    assert rank_correlation(one[:12], other[:12], rng()) == few
    assert rank_correlation(one[:12], other[:12], rng(1)) != few


@pytest.mark.parametrize("pairs", [[(told(0.1), 0.2)], [(told(0.1), 0.2), (told(0.2), 0.3)]])
def test_of_one_or_two_tasks_there_is_no_rank_correlation(pairs):
    met = calibrate(pairs, rng())
    assert met.rank_correlation is None
    assert met.error == pytest.approx(0.1)


def test_what_is_expected_alike_of_all_has_no_rank_correlation():
    assert calibrate([(told(0.1), gained) for gained in (0.1, 0.2, 0.3)], rng()).rank_correlation is None


# --- from cells ---


def test_pairs_are_of_the_methods_of_which_something_was_expected():
    found = pairs_of(list(expecting_cells()), BASE)
    assert list(found) == [("sg", "labels")]
    pairs = found["sg", "labels"]
    assert {task: pair[0].gain for task, pair in pairs.items()} == pytest.approx(EXPECTED)
    assert {task: pair[1] for task, pair in pairs.items()} == pytest.approx(GAINS)


def test_several_seeds_of_a_task_are_one_pair():
    cells = [one for one in make_cells() if one.method != "sg"]
    for seed, (accuracy, gain) in enumerate(((0.5, 0.1), (0.9, 0.2))):
        cells.append(cell("cups", "sg", accuracy, seed=seed, expected=told(gain)))
    ((expected, gained),) = pairs_of(cells, BASE)["sg", "labels"].values()
    assert (expected.gain, expected.low, expected.high) == pytest.approx((0.15, 0.05, 0.25))
    assert gained == pytest.approx(0.7 - ACCURACY[BASE][0])


def test_expectations_that_rest_on_other_knowledge_stand_apart():
    cells = list(expecting_cells({"cups": 0.1, "menus": 0.1}))
    mixed = [
        one.model_copy(update={"expected": told(0.1, knows="texts")}) if one.expected and one.task == "cups" else one
        for one in cells
    ]
    assert {key: list(pairs) for key, pairs in pairs_of(mixed, BASE).items()} == {
        ("sg", "texts"): ["cups"],
        ("sg", "labels"): ["menus"],
    }


def test_each_group_has_its_own_row():
    groups = {"near": ["cups", "menus"], "far": ["ovens", "plates"], "none": [], ALL: list(KINDS)}
    rows = {row.group: row for row in calibration_rows(list(expecting_cells()), groups, base=BASE)}
    assert list(rows) == ["near", "far", ALL]
    assert rows["near"].calibration.realised == pytest.approx(0.25)
    assert rows["far"].calibration.expected == pytest.approx(0.175)
    assert rows[ALL].calibration.tasks == 4
    assert rows[ALL].calibration.coverage == 0.5  # of cups and ovens


# --- in the report ---


def test_a_report_shows_what_was_expected(report_workspace):
    report = make_report(report_workspace, tuple(expecting_cells()))
    body = body_of(calibration_section(report))
    assert list(body) == ["near (2)", "far (2)", "all (4)"]
    row = body["all (4)"]
    assert (row["adapter"], row["knows"], row["expected"], row["realised"]) == ("sg", "labels", "+0.150", "+0.150")
    assert (row["mean absolute error"], row["in the 80% interval"]) == ("0.125", "50%")
    assert body["near (2)"]["rank correlation"] == ""
    assert "## Expected and realised gain" in markdown(report)
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_where_nothing_was_expected_nothing_is_said(report):
    assert report.summary.calibration == ()
    assert "Expected and realised" not in markdown(report)
