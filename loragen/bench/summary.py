"""Cells summed up by recipe: the rate that held-out losses choose, the scores there, and how they hang on the rate.

Scores are higher for better adapters: those that are better the lower they are, such as bits per byte, are negated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import final

import numpy as np
from pydantic import ConfigDict, Field

from loragen.bases.scores import LESS_IS_MORE
from loragen.bench.cells import BenchCell
from loragen.config import StrictModel
from loragen.evaluation.statistics import Interval, Table, difference_interval, mean_interval
from loragen.recipes.registry import Axis
from loragen.values import MOST_EXAMPLES

HALF_A_DECADE = 0.5
"""In powers of ten: the sensitivity to the rate is taken this far below and above the chosen one."""


class CurvePoint(StrictModel):
    """A recipe at one learning rate."""

    learning_rate: float
    score: float | None
    """Mean over tasks and seeds, a diverged training counting as 0; `None` where such a score has no least value."""
    held_out_rank: float
    """Mean place of this rate among all by held-out loss within a task and seed, 1 for the least loss."""
    diverged: int = Field(ge=0, le=MOST_EXAMPLES)
    """Trainings that diverged."""


class RecipeSummary(StrictModel):
    """One recipe over all its learning rates."""

    model_config = ConfigDict(allow_inf_nan=True)

    label: str
    name: str
    axis: Axis
    curve: tuple[CurvePoint, ...]
    best_rate: float | None
    """The rate with the least `CurvePoint.held_out_rank` of those at which no training diverged; `None` without any."""
    is_at_edge: bool
    """True if that is the lowest or the highest rate compared: a better one may lie beyond."""
    score: Interval | None
    """At the best rate, over tasks and seeds."""
    others: dict[str, float]
    """Further scores that adapters are compared by, means at the best rate."""
    by_task: dict[str, float]
    """Score at the best rate by task, the mean over seeds."""
    above_reference: Interval | None
    """Paired difference to the recipe that all are compared with, each at its own best rate."""
    at_shared: Interval | None
    """Score at the best rate of that recipe."""
    sensitivity: float | None
    """Greatest minus least mean score over a decade of rates around the best one, with straight lines between rates."""
    sensitivity_is_partial: bool
    """True if the rates compared do not span that decade, so that more may be lost than was seen."""
    rank: float | None
    parameters: float | None
    seconds: float | None
    """The three of a cell at the best rate, means."""


class BenchSummary(StrictModel):
    """All recipes, and their order at one rate and at each one's own."""

    score: str
    """Name of the score."""
    reference: str
    shared_rate: float | None
    """The best rate of the reference."""
    recipes: tuple[RecipeSummary, ...]
    by_best: tuple[str, ...]
    """Labels, the best mean score first, each at its own best rate."""
    by_shared: tuple[str, ...]
    """The same at the shared rate; without those that have no score there."""

    def swapped(self) -> tuple[int, int]:
        """Pairs of recipes that stand the other way round at the shared rate, and all pairs that have both places."""
        common = [label for label in self.by_best if label in self.by_shared]
        pairs = list(combinations(common, 2))
        return sum(self.by_shared.index(a) > self.by_shared.index(b) for a, b in pairs), len(pairs)


@final
@dataclass(frozen=True)
class RecipeCells:
    """The cells of one recipe as tables."""

    cells: Mapping[tuple[str, float, int], BenchCell]
    """(Task, learning rate, seed) → cell."""
    tasks: Sequence[str]
    rates: Sequence[float]
    seeds: Sequence[int]

    def at(self, rate: float) -> list[list[BenchCell]]:
        """The cells at a rate, a row a task."""
        return [[self.cells[task, rate, seed] for seed in self.seeds] for task in self.tasks]

    def diverged(self, rate: float) -> int:
        """Trainings at a rate that diverged."""
        return sum(cell.has_diverged for row in self.at(rate) for cell in row)

    def table(self, rate: float, score: str) -> Table | None:
        """Scores at a rate, (tasks, seeds), more being better."""
        if score in LESS_IS_MORE and self.diverged(rate):
            return None
        return np.array([[_score(cell, score) for cell in row] for row in self.at(rate)])

    def held_out_ranks(self) -> dict[float, float]:
        """Rate → its mean place by held-out loss, compared only within a task and seed; diverged trainings are last."""
        from scipy.stats import rankdata

        places = [
            rankdata([_loss(self.cells[task, rate, seed]) for rate in self.rates])
            for task in self.tasks
            for seed in self.seeds
        ]
        return dict(zip(self.rates, np.mean(places, axis=0).tolist(), strict=True))

    def best_rate(self) -> float | None:
        """The rate with the least mean place, of those at which nothing diverged; of equal ones the lowest."""
        ranks = self.held_out_ranks()
        sound = [rate for rate in self.rates if not self.diverged(rate)]
        return min(sound, key=lambda rate: (ranks[rate], rate), default=None)

    def mean_of(self, rate: float | None, name: str) -> float | None:
        """Mean of a number of the cells at a rate."""
        if rate is None:
            return None
        return float(np.mean([getattr(cell, name) for row in self.at(rate) for cell in row]))


def _loss(cell: BenchCell) -> float:
    return np.inf if cell.has_diverged or cell.held_out_loss is None else cell.held_out_loss


def _score(cell: BenchCell, score: str) -> float:
    if cell.scores is None:
        return 0.0
    return float(getattr(cell.scores, score)) * (-1 if score in LESS_IS_MORE else 1)


def summarise(
    recipes: Mapping[str, tuple[str, Axis]], cells: Mapping[str, RecipeCells], *, main: Sequence[str], reference: str
) -> BenchSummary:
    """Sum recipes up.

    Args:
        recipes: label → name and axis.
        cells: label → its cells, all of the same tasks, rates and seeds.
        main: names of the scores that adapters are compared by; the first decides.
        reference: label of the recipe that all are compared with.
    """
    shared = cells[reference].best_rate()
    plain = None if shared is None else cells[reference].table(shared, main[0])
    found = tuple(
        _recipe(label, *recipes[label], cells[label], main=main, shared=shared, plain=plain) for label in recipes
    )
    return BenchSummary(
        score=main[0],
        reference=reference,
        shared_rate=shared,
        recipes=found,
        by_best=_ordered({one.label: one.score for one in found}),
        by_shared=_ordered({one.label: one.at_shared for one in found}),
    )


def _recipe(
    label: str,
    name: str,
    axis: Axis,
    cells: RecipeCells,
    *,
    main: Sequence[str],
    shared: float | None,
    plain: Table | None,
) -> RecipeSummary:
    best, score = cells.best_rate(), main[0]
    ranks = cells.held_out_ranks()
    tables = {rate: cells.table(rate, score) for rate in cells.rates}
    curve = {rate: None if table is None else float(table.mean()) for rate, table in tables.items()}
    at_best = None if best is None else tables[best]
    at_shared = None if shared is None else tables[shared]
    sensitivity, is_partial = (None, False) if best is None else sensitivity_of(curve, best)
    others = {} if best is None else {other: cells.table(best, other) for other in main[1:]}
    return RecipeSummary(
        label=label,
        name=name,
        axis=axis,
        curve=tuple(
            CurvePoint(learning_rate=r, score=curve[r], held_out_rank=ranks[r], diverged=cells.diverged(r))
            for r in cells.rates
        ),
        best_rate=best,
        is_at_edge=best in (cells.rates[0], cells.rates[-1]),
        score=_interval(at_best),
        others={other: float(table.mean()) for other, table in others.items() if table is not None},
        by_task={}
        if at_best is None
        else dict(zip(cells.tasks, (float(mean) for mean in at_best.mean(1)), strict=True)),
        above_reference=None if at_best is None or plain is None else difference_interval(at_best, plain, rng=_rng()),
        at_shared=_interval(at_shared),
        sensitivity=sensitivity,
        sensitivity_is_partial=is_partial,
        rank=cells.mean_of(best, "rank"),
        parameters=cells.mean_of(best, "parameters"),
        seconds=cells.mean_of(best, "seconds"),
    )


def sensitivity_of(curve: Mapping[float, float | None], best: float) -> tuple[float | None, bool]:
    """Greatest minus least score over a decade around a rate, and whether the rates compared do not span it.

    Args:
        curve: learning rate → score, in rising order; between rates the score is taken on a straight line over the
            logarithm of the rate.
        best: one of the rates.

    Returns:
        `None` as the first where a score that is needed is not known.
    """
    powers = np.log10(list(curve))
    wanted = np.log10(best) + HALF_A_DECADE * np.array([-1, 1])
    low, high = np.clip(wanted, powers[0], powers[-1])
    is_partial = bool(np.abs(np.array([low, high]) - wanted).max() > 1e-9)
    scores = np.array([np.nan if score is None else score for score in curve.values()])
    within = scores[(powers >= low) & (powers <= high)]
    values = np.concatenate([np.interp([low, high], powers, scores), within])
    return (None if np.isnan(values).any() else float(values.max() - values.min())), is_partial


def _interval(table: Table | None) -> Interval | None:
    return None if table is None else mean_interval(table, rng=_rng())


def _rng() -> np.random.Generator:
    """The same draws for every recipe."""
    return np.random.default_rng(0)


def _ordered(scores: Mapping[str, Interval | None]) -> tuple[str, ...]:
    known = {label: score.mean for label, score in scores.items() if score is not None}
    return tuple(sorted(known, key=lambda label: -known[label]))
