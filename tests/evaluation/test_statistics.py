import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from loragen.evaluation.statistics import (
    Interval,
    difference_interval,
    gain_interval,
    mean_interval,
    sign_test,
    win_rate,
)

SCORES = st.integers(1, 6).flatmap(
    lambda tasks: st.lists(
        st.integers(1, 3).flatmap(lambda seeds: hnp.arrays(float, (tasks, seeds), elements=st.floats(0, 1, width=16))),
        min_size=3,
        max_size=3,
    )
)


def rng(seed=0):
    return np.random.default_rng(seed)


def column(*scores):
    return np.array(scores, dtype=float)[:, None]


def width(interval):
    return interval.high - interval.low


def drawn(tasks, seeds=1, *, of, shared=0.0, noise=0.0):
    """Scores around 0.7: tasks deviate by 0.1 (one part shared with other methods), seeds by ``noise``."""
    own = 0.1 * of.standard_normal((tasks, 1))
    return 0.7 + shared + own + noise * of.standard_normal((tasks, seeds))


# --- the mean ---


@pytest.mark.parametrize(("seeds", "noise"), [(1, 0.0), (3, 0.05)])
def test_intervals_hold_the_truth_about_95_times_in_100(seeds, noise):
    of, held = rng(1), 0
    for _ in range(400):
        interval = mean_interval(drawn(30, seeds, of=of, noise=noise), rng=of, resamples=600)
        held += interval.low <= 0.7 <= interval.high
    assert 0.91 <= held / 400 <= 0.98


@pytest.mark.parametrize("seeds", [2, 5])
def test_noise_of_seeds_counts(seeds):
    """All tasks are equal, so that the whole width is noise: its deviation is the noise's over the root of all."""
    noisy = mean_interval(np.tile(np.linspace(0.4, 0.6, seeds), (20, 1)), rng=rng())
    deviation = np.linspace(0.4, 0.6, seeds).std() / math.sqrt(20 * seeds)
    assert width(noisy) == pytest.approx(2 * 1.96 * deviation, rel=0.06)


def test_seeds_are_drawn_within_their_task():
    """Tasks that are certain, each at its own level, leave the noise of tasks alone, whatever the seeds."""
    levels = rng(2).random(12)
    one, three = (mean_interval(np.repeat(levels[:, None], seeds, axis=1), rng=rng()) for seeds in (1, 3))
    assert (one.low, one.high) == (pytest.approx(three.low), pytest.approx(three.high))


def test_one_seed_is_the_percentile_bootstrap_of_scipy():
    scores = rng(3).random((15, 1))
    wanted = stats.bootstrap((scores[:, 0],), np.mean, n_resamples=20_000, method="percentile", rng=rng(4))
    met = mean_interval(scores, rng=rng(5), resamples=20_000)
    assert met.mean == pytest.approx(scores.mean())
    assert met.low == pytest.approx(wanted.confidence_interval.low, abs=0.02 * width(met))
    assert met.high == pytest.approx(wanted.confidence_interval.high, abs=0.02 * width(met))


@pytest.mark.parametrize("interval_of", [mean_interval, lambda s, rng: gain_interval(s, s - 0.1, s + 0.3, rng=rng)])
def test_one_task_gives_a_point(interval_of):
    interval = interval_of(column(0.7), rng=rng())
    assert interval.low == interval.mean == interval.high
    assert not math.isnan(interval.mean)


def test_equal_states_give_equal_intervals():
    scores = drawn(8, 3, of=rng(), noise=0.1)
    assert mean_interval(scores, rng=rng(7)) == mean_interval(scores, rng=rng(7))
    assert mean_interval(scores, rng=rng(7)) != mean_interval(scores, rng=rng(8))
    one = rng(7)
    assert mean_interval(scores, rng=one) != mean_interval(scores, rng=one), "the generator moves on"


@given(tables=SCORES)
def test_intervals_lie_within_the_scores(tables):
    table = tables[0]
    interval = mean_interval(table, rng=rng(), resamples=50)
    assert interval.mean == pytest.approx(table.mean())
    assert table.min() - 1e-12 <= interval.low <= interval.high <= table.max() + 1e-12


# --- differences ---


def test_pairing_narrows_the_difference_of_correlated_scores():
    of = rng(6)
    shared = 0.3 * of.standard_normal((25, 1))
    one, other = (drawn(25, 3, of=of, shared=shared, noise=0.01) for _ in range(2))
    paired = difference_interval(one, other, rng=rng())
    unpaired = difference_interval(one, of.permutation(other), rng=rng())
    assert width(paired) < 0.6 * width(unpaired)
    assert paired.mean == pytest.approx(unpaired.mean) == pytest.approx(one.mean() - other.mean())


def test_the_difference_is_the_paired_bootstrap_of_scipy():
    of = rng(8)
    one, other = of.random((15, 1)), of.random((15, 1))
    wanted = stats.bootstrap(
        (one[:, 0], other[:, 0]),
        lambda x, y, axis: x.mean(axis) - y.mean(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=rng(9),
    )
    met = difference_interval(one, other, rng=rng(10), resamples=20_000)
    assert met.low == pytest.approx(wanted.confidence_interval.low, abs=0.02 * width(met))
    assert met.high == pytest.approx(wanted.confidence_interval.high, abs=0.02 * width(met))


def test_a_certain_lead_has_no_width_though_tasks_and_seeds_differ():
    scores = drawn(10, 3, of=rng(), noise=0.1)
    interval = difference_interval(scores + 0.05, scores, rng=rng())
    assert (interval.low, interval.mean, interval.high) == tuple(pytest.approx(0.05) for _ in range(3))


def test_methods_of_one_seed_and_of_several_are_compared():
    scores = drawn(10, 3, of=rng(), noise=0.1)
    assert width(difference_interval(scores, scores.mean(1, keepdims=True), rng=rng())) > 0


# --- the recovered gain ---


@given(tables=SCORES)
def test_the_base_recovers_nothing_and_the_oracle_all(tables):
    _, base, oracle = tables
    assume(abs(oracle.mean() - base.mean()) > 1e-6)
    assert gain_interval(base, base, oracle, rng=rng(), resamples=200) == Interval(0, 0, 0)
    assert gain_interval(oracle, base, oracle, rng=rng(), resamples=200) == Interval(1, 1, 1)


def test_the_gain_is_a_ratio_of_means_of_tasks_drawn_jointly():
    base, oracle = column(0.5, 0.2, 0.6), column(0.6, 0.8, 0.6)
    interval = gain_interval(column(0.6, 0.5, 0.7), base, oracle, rng=rng())
    assert interval.mean == pytest.approx((1.8 - 1.3) / (2.0 - 1.3))
    half = gain_interval((base + oracle) / 2, base, oracle, rng=rng())
    assert (half.low, half.mean, half.high) == tuple(pytest.approx(0.5) for _ in range(3))


def test_resamples_without_anything_to_gain_are_left_out():
    interval = gain_interval(column(0.6, 0.5), column(0.5, 0.5), column(0.7, 0.5), rng=rng())
    assert (interval.low, interval.mean, interval.high) == tuple(pytest.approx(0.5) for _ in range(3))


@pytest.mark.parametrize("oracle", [column(0.8, 0.6), np.full((2, 3), 0.7)], ids=["in sum", "but for rounding"])
def test_the_gain_is_nan_where_the_oracle_gains_nothing(oracle):
    interval = gain_interval(column(0.8, 0.9), column(0.7, 0.7), oracle, rng=rng())
    assert all(math.isnan(value) for value in (interval.mean, interval.low, interval.high))


# --- wins ---


def test_ties_are_half_a_win():
    assert win_rate(column(0.9, 0.5, 0.1, 0.7), column(0.8, 0.5, 0.2, 0.7)) == (1 + 0.5 + 0 + 0.5) / 4


@given(tables=SCORES)
def test_wins_of_both_sides_add_up(tables):
    one, other, _ = tables
    assert win_rate(one, other) + win_rate(other, one) == pytest.approx(1)
    assert win_rate(one, one) == 0.5


def test_rounding_of_means_decides_no_task():
    three = np.full((4, 3), 0.7)
    assert three.mean(1)[0] != 0.7, "the case is a real one"
    assert win_rate(three, column(0.7, 0.7, 0.7, 0.7)) == 0.5


@pytest.mark.parametrize(
    ("scores", "other"),
    [
        (np.ones((3, 1)), np.ones((2, 1))),
        (np.ones(3), np.ones((3, 1))),
        (np.ones((0, 1)), np.ones((0, 1))),
        (column(float("nan")), column(1.0)),
    ],
)
def test_tables_must_fit_each_other(scores, other):
    with pytest.raises(AssertionError):
        difference_interval(scores, other, rng=rng())


# --- the sign test ---


@pytest.mark.parametrize(
    ("above", "below", "equal", "wanted"),
    [
        (6, 0, 30, 2 / 2**6),
        (0, 6, 0, 2 / 2**6),
        (5, 0, 30, 2 / 2**5),
        (3, 3, 5, 1.0),
        (0, 0, 7, 1.0),
        (4, 1, 0, 12 / 32),
    ],
)
def test_the_sign_test_counts_rows_that_differ(above, below, equal, wanted):
    scores = np.array([1.0] * above + [0.0] * below + [1.0] * equal)[:, None]
    other = np.array([0.0] * above + [1.0] * below + [1.0] * equal)[:, None]
    assert sign_test(scores, other) == pytest.approx(wanted)


def test_an_interval_is_written_by_the_format_of_its_numbers():
    assert f"{Interval(0.12, -0.03, 0.21):+.3f}" == "+0.120 (-0.030 to +0.210)"
    assert f"{Interval(0.5, 0.25, 1):.2f}" == "0.50 (0.25 to 1.00)"
