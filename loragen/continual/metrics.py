"""What is learnt and forgotten while tasks arrive: the metrics of a survey of continual learning, from a score matrix.

Wang et al., A Comprehensive Survey of Continual Learning (arXiv 2302.00487), section 2.2, with groups of tasks that
arrive together in place of single ones. Row i of the matrix R holds the scores of all tasks after group i was learnt;
scores are higher where they are better.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Self

from loragen.config import StrictModel
from loragen.errors import ConfigError, shown

Matrix = Sequence[Sequence[float]]
"""Moments x tasks; NaN where nothing was measured. A row may end early: the rest of it was not measured."""


class ContinualScores(StrictModel):
    """Metrics of one sequence; `None` where nothing that a metric reads was measured."""

    average: tuple[float | None, ...]
    """By moment, the mean over the tasks that have arrived."""
    aa: float | None
    """AA, average accuracy: the last of those."""
    aia: float | None
    """AIA, average incremental accuracy: their mean over the moments."""
    fm: float | None
    """FM, forgetting: mean over the tasks of all groups but the last of max R[i, j] over the moments i before the last,
    less R[last, j]. Below 0 where a task is best at the end."""
    bwt: float | None
    """BWT, backward transfer: mean over the same tasks of R[last, j] less the score when task j arrived."""
    fwt: float | None
    """FWT, forward transfer: mean over the tasks of all groups but the first of the score when task j arrived, less
    that of a model of it alone."""
    im: float | None
    """IM, intransigence: mean over the tasks of the last group of the score of a model of all tasks together, less that
    at the end."""
    zero_shot: float | None
    """Mean over the moments of the mean over the tasks that have not arrived of R[i, j] less the base's score: whether
    what was learnt helps tasks not seen. No metric of the survey."""

    @classmethod
    def of(
        cls,
        scores: Matrix,
        groups: Sequence[Sequence[int]] | None = None,
        *,
        alone: Sequence[float] | None = None,
        joint: Sequence[float] | None = None,
        base: Sequence[float] | None = None,
    ) -> Self:
        """The metrics of a score matrix.

        Args:
            scores: R, a row for each group.
            groups: positions of the tasks that arrive at each moment; by default task i arrives at moment i. Tasks of
                no group never arrive, and count among those not seen.
            alone: for each task the score of a model of it alone, for FWT.
            joint: for each task the score of a model of all tasks together, for IM.
            base: for each task the score without anything learnt, for zero-shot transfer.

        Raises:
            ConfigError: rows, groups and scores beside them do not fit one another, or a score is infinite.
        """
        rows, arrived = _checked(scores, groups)
        width = len(rows[0])
        beside = {"alone": alone, "joint": joint, "base": base}
        own, together, bare = (_beside(name, values, width) for name, values in beside.items())
        last = len(rows) - 1
        early = [task for task, at in arrived.items() if at < last]
        late = [task for task, at in arrived.items() if at > 0]
        newest = [task for task, at in arrived.items() if at == last]
        average = tuple(_mean(row[task] for task, at in arrived.items() if at <= i) for i, row in enumerate(rows))
        # A task of no group is to come at every moment.
        to_come = [[task for task in range(width) if arrived.get(task, len(rows)) > i] for i in range(len(rows))]
        helped = (_mean(row[j] - bare[j] for j in tasks) for row, tasks in zip(rows, to_come, strict=True))
        return cls(
            average=average,
            aa=average[-1],
            aia=_mean(average),
            fm=_mean(_best(row[task] for row in rows[:-1]) - rows[-1][task] for task in early),
            bwt=_mean(rows[-1][task] - rows[arrived[task]][task] for task in early),
            fwt=_mean(rows[arrived[task]][task] - own[task] for task in late),
            im=_mean(together[task] - rows[-1][task] for task in newest),
            zero_shot=_mean(helped),
        )


def _checked(scores: Matrix, groups: Sequence[Sequence[int]] | None) -> tuple[list[list[float]], dict[int, int]]:
    """The rows, all of one length, and for each task that arrives the moment when it does."""
    if not scores or not (width := max(map(len, scores))):
        raise ConfigError("There are no scores; a row for every group of tasks was wanted.")
    if any(math.isinf(score) for row in scores for score in row):
        raise ConfigError("A score is infinite; numbers were wanted, or NaN where nothing was measured.")
    rows = [[*map(float, row), *[math.nan] * (width - len(row))] for row in scores]
    arriving = [[task] for task in range(len(rows))] if groups is None else groups
    if len(arriving) != len(rows):
        raise ConfigError(
            f"There are {len(rows)} rows of scores for {len(arriving)} groups of tasks; give one a group."
        )
    tasks = [task for group in arriving for task in group]
    if len(set(tasks)) < len(tasks) or any(not 0 <= task < width for task in tasks):
        raise ConfigError(
            f"The groups of tasks are {shown([list(group) for group in arriving])}; different positions from 0 to "
            f"{width - 1} were wanted."
        )
    return rows, {task: moment for moment, group in enumerate(arriving) for task in group}


def _beside(name: str, values: Sequence[float] | None, width: int) -> Sequence[float]:
    """Scores of each task, NaN where none were given."""
    if values is None:
        return [math.nan] * width
    if len(values) != width or any(map(math.isinf, values)):
        raise ConfigError(f"The scores '{name}' are {len(values)} for {width} tasks; a finite one for each was wanted.")
    return values


def _best(scores: Iterable[float]) -> float:
    return max((score for score in scores if not math.isnan(score)), default=math.nan)


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of what was measured; exact sums, so that the order of tasks does not matter."""
    measured = [value for value in values if value is not None and not math.isnan(value)]
    return math.fsum(measured) / len(measured) if measured else None
