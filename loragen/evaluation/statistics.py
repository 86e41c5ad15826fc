"""Intervals for means over a handful of tasks, by bootstrap over tasks and over seeds within a task.

A table holds one method's scores, higher being better: float (tasks, seeds), with one column where nothing is drawn at
random. Tables that are compared have the same tasks in the same order, and every resample draws the same tasks from all
of them: tasks differ far more than methods do. Tables of equally many seeds also share the seeds drawn, so that noise
common to two methods cancels, and a method compared with itself differs by exactly nothing.

The noise of seeds is drawn anew although it is part of how tasks differ: with few seeds intervals err on the wide side.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Table = NDArray[np.float64]

RESAMPLES = 4_000
LEVEL = 0.95
TIE = 1e-12
"""Means that differ by no more are equal: a score averaged over one seed and over three is not the same float."""


@dataclass(frozen=True)
class Interval:
    """A statistic of the scores as they are, and its central 95 % over the resamples (percentiles)."""

    mean: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        """The number with its interval, such as ``+0.120 (+0.030 to +0.210)`` for ``+.3f``."""
        return f"{self.mean:{spec}} ({self.low:{spec}} to {self.high:{spec}})"


def mean_interval(scores: Table, *, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """The mean over tasks and seeds.

    Args:
        scores: a table.
        rng: the same state gives the same interval.
        resamples: number of draws, with replacement, of tasks and of seeds within each.
    """
    return _bootstrap(lambda mean: mean, (scores,), rng, resamples)


def difference_interval(
    scores: Table, other: Table, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """Mean of one method minus that of another on the same tasks; arguments as in `mean_interval`."""
    return _bootstrap(np.subtract, (scores, other), rng, resamples)


def gain_interval(
    scores: Table, base: Table, oracle: Table, *, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Interval:
    """The recovered gain as a ratio of means, (mean(scores) - mean(base)) / (mean(oracle) - mean(base)).

    A ratio of means weighs tasks by what there is to gain, where a mean of ratios would be ruled by tasks with almost
    nothing to gain; with little to gain in all, the interval is wide. Resamples in which the oracle gains nothing are
    left out; where it gains nothing on the tasks as they are, all three numbers are NaN. Arguments as in
    `mean_interval`.
    """
    return _bootstrap(_gain, (scores, base, oracle), rng, resamples)


def win_rate(scores: Table, other: Table) -> float:
    """Share of the tasks on which one method's mean over seeds is above the other's; ties count half."""
    _check((scores, other))
    lead = scores.mean(1) - other.mean(1)
    return float(np.where(np.abs(lead) <= TIE, 0.5, lead > 0).mean())


def sign_test(scores: Table, other: Table) -> float:
    """Two-sided p-value of the exact sign test that one method is as often above the other as below it on a row."""
    from scipy.stats import binomtest

    _check((scores, other))
    lead = scores.mean(1) - other.mean(1)
    above, below = int((lead > TIE).sum()), int((lead < -TIE).sum())
    return float(binomtest(above, above + below).pvalue) if above + below else 1.0


def _gain(score: Table, base: Table, oracle: Table) -> Table:
    possible = oracle - base
    return np.divide(score - base, possible, out=np.full_like(possible, np.nan), where=np.abs(possible) > TIE)


def _bootstrap(
    statistic: Callable[..., Table], tables: Sequence[Table], rng: np.random.Generator, resamples: int
) -> Interval:
    """Resample a statistic of the tables' means, which it takes as arrays of one value a resample."""
    _check(tables)
    point = float(statistic(*(table.mean(keepdims=True)[0] for table in tables))[0])
    if np.isnan(point):
        return Interval(point, point, point)
    number = len(tables[0])
    tasks = rng.integers(number, size=(resamples, number, 1))
    seeds = {
        count: rng.integers(count, size=(resamples, number, count))
        for count in sorted({table.shape[1] for table in tables})
    }
    drawn = statistic(*(table[tasks, seeds[table.shape[1]]].mean((1, 2)) for table in tables))
    low, high = np.nanquantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(point, low, high)


def _check(tables: Sequence[Table]) -> None:
    assert all(table.ndim == 2 and table.size for table in tables), "tables are (tasks, seeds), at least one of each"
    assert len({len(table) for table in tables}) == 1, "tables that are compared hold the same tasks"
    assert all(np.isfinite(table).all() for table in tables), "scores are finite"
