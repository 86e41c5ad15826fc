"""Calibration: what could be expected of adapters beforehand against what they gained."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from loragen.bases.scores import Scores
from loragen.confidence.expected import ExpectedGain, Knowledge
from loragen.config import StrictModel
from loragen.evaluation.cells import Cell
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.score_tables import ScoreTables
from loragen.evaluation.statistics import LEVEL, RESAMPLES, Interval

Pair = tuple[ExpectedGain, float]
"""What was expected of a task's adapter, and the gain that it had: label-text accuracy less the base's."""
FEWEST = 3
"""Tasks without which a rank correlation says nothing."""


class Calibration(StrictModel):
    """Expected against realised gains over some tasks."""

    tasks: int
    expected: float
    """Mean of the expected gains."""
    realised: float
    """Mean of the realised gains."""
    error: float
    """Mean absolute difference between the two."""
    rank_correlation: Interval | None
    """Spearman's, over tasks; none with fewer than three tasks, or where all of one kind are equal."""
    coverage: float
    """Share of tasks whose gain lies in its interval, which should be `loragen.confidence.expected.COVERAGE`."""


class CalibrationRow(StrictModel):
    """Calibration of one method's expectations on one group of tasks."""

    group: str
    method: str
    knows: Knowledge
    """What the expectations rest on."""
    calibration: Calibration


def calibrate(pairs: Sequence[Pair], rng: np.random.Generator, *, resamples: int = RESAMPLES) -> Calibration:
    """Compare expected with realised gains, one pair a task.

    Args:
        pairs: at least one.
        rng: draws the resamples of tasks; the same state gives the same interval.
        resamples: number of draws of tasks, with replacement.
    """
    assert pairs, "there is at least one pair"
    expected, realised = np.array([(told.gain, gained) for told, gained in pairs]).T
    return Calibration(
        tasks=len(pairs),
        expected=float(expected.mean()),
        realised=float(realised.mean()),
        error=float(np.abs(expected - realised).mean()),
        rank_correlation=rank_correlation(expected, realised, rng, resamples=resamples),
        coverage=float(np.mean([told.low <= gained <= told.high for told, gained in pairs])),
    )


def rank_correlation(
    one: NDArray[np.float64], other: NDArray[np.float64], rng: np.random.Generator, *, resamples: int = RESAMPLES
) -> Interval | None:
    """Spearman's correlation of two columns (n,), with the central 95 % over resampled rows.

    Resamples in which a column is constant are left out. `None` with fewer than three rows or a constant column.
    """
    point = _spearman(one[None], other[None])
    if len(one) < FEWEST or np.isnan(point[0]):
        return None
    drawn = rng.integers(len(one), size=(resamples, len(one)))
    low, high = np.nanquantile(_spearman(one[drawn], other[drawn]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return Interval(float(point[0]), low, high)


def _spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlation of the ranks of each row (m, n), ties sharing theirs: (m,), NaN where a row is constant."""
    from scipy.stats import rankdata

    x, y = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(rows, axis=1) for rows in (one, other)))
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    found: NDArray[np.float64] = np.divide((x * y).sum(1), scale, out=np.full(len(x), np.nan), where=scale > 0)
    return found


def pairs_of(cells: Sequence[Cell], base: str) -> dict[tuple[str, Knowledge], dict[str, Pair]]:
    """Method and what its expectations rest on → task → pair, means over seeds; cells without expectation are left out.

    Args:
        cells: those of the base among them.
        base: the method whose accuracy is taken off.
    """
    tables = ScoreTables.of(cells)
    found: dict[tuple[str, Knowledge], dict[str, list[tuple[ExpectedGain, float]]]] = {}
    for method in tables.methods():
        for task, by_seed in tables.cells[method, RIGHT].items():
            for cell in by_seed:
                if cell.expected is not None and isinstance(cell.scores, Scores):
                    gained = cell.scores.accuracy - float(tables.whole(base, [task], "accuracy").mean())
                    by_task = found.setdefault((method, cell.expected.knows), {})
                    by_task.setdefault(task, []).append((cell.expected, gained))
    return {key: {task: _mean(pairs) for task, pairs in by_task.items()} for key, by_task in found.items()}


def calibration_rows(
    cells: Sequence[Cell], groups: Mapping[str, Sequence[str]], *, base: str, seed: int = 0
) -> Iterator[CalibrationRow]:
    """A row for each group and method of whose adapters something was expected."""
    found = pairs_of(cells, base)
    for group, tasks in groups.items():
        for (method, knows), by_task in found.items():
            if pairs := [by_task[task] for task in tasks if task in by_task]:
                calibration = calibrate(pairs, np.random.default_rng(seed))
                yield CalibrationRow(group=group, method=method, knows=knows, calibration=calibration)


def _mean(pairs: Sequence[Pair]) -> Pair:
    """The mean over seeds of what was expected, ends of the interval too, and of what was gained."""
    gain, low, high, gained = np.array([(told.gain, told.low, told.high, gained) for told, gained in pairs]).mean(0)
    # A mean of three equal numbers may round beyond them.
    told = ExpectedGain(
        gain=float(gain), low=float(min(low, gain)), high=float(max(high, gain)), knows=pairs[0][0].knows
    )
    return told, float(gained)
