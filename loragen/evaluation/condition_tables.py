"""Does the condition matter: rank of a task's own adapter among other tasks', and rivals that read no description."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict, Field

from loragen.config import StrictModel
from loragen.evaluation.config import RANDOM, mean_output
from loragen.evaluation.controls import MADE_FOR, RIGHT
from loragen.evaluation.likeness import Likeness
from loragen.evaluation.score_tables import ScoreTables, sign_of
from loragen.evaluation.statistics import TIE, Interval, difference_interval, mean_interval


class ConditionRow(StrictModel):
    """What the description is worth to one generator on one group of tasks by one score."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    group: str
    tasks: int
    method: str
    score: str
    rank: Interval | None = None
    """Share of the other tasks' adapters that a task's own beats on its first texts, ties half; chance is .5."""
    others: float = 0.0
    """Other tasks' adapters a task, on average."""
    above: dict[str, Interval] = Field(default_factory=dict)
    """Method that reads no description → paired difference to it, above 0 where the generator is better."""


class ConditionTables(StrictModel):
    """All that shows whether the description matters, beside the controls."""

    likenesses: tuple[Likeness, ...] = ()
    rows: tuple[ConditionRow, ...] = ()


def rank_among(own: float, others: Sequence[float]) -> float:
    """Share of other scores that one is above: 1 is above them all, ties count half."""
    lead = own - np.asarray(others)
    return float(np.where(np.abs(lead) <= TIE, 0.5, lead > 0).mean())


@dataclass(frozen=True)
class ConditionSummariser:
    """The parts that all rows share."""

    tables: ScoreTables
    groups: Mapping[str, Sequence[str]]
    main: Sequence[str]
    seed: int

    def rows(self, generators: Sequence[str]) -> Iterator[ConditionRow]:
        """A row for each generator that has ranks or rivals, on each group by each main score."""
        met = self.tables.methods()
        for group, tasks in self.groups.items():
            for method in (name for name in generators if name in met):
                rivals = [rival for rival in (mean_output(method), RANDOM) if rival in met]
                for score in self.main:
                    row = self._row(group, tasks, method, score, rivals)
                    if row.rank or row.above:
                        yield row

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)  # every interval from the same resamples of tasks

    def _row(self, group: str, tasks: Sequence[str], method: str, score: str, rivals: Sequence[str]) -> ConditionRow:
        sign, own = sign_of(score), self.tables.whole(method, tasks, score)
        ranks = [(rank_among(one, others), len(others)) for one, others in self._among(method, tasks, score)]
        found = np.array(ranks).reshape(-1, 2)
        return ConditionRow(
            group=group,
            tasks=len(tasks),
            method=method,
            score=score,
            rank=mean_interval(found[:, :1], rng=self._rng()) if ranks else None,
            others=float(found[:, 1].mean()) if ranks else 0.0,
            above={
                rival: difference_interval(sign * own, sign * self.tables.whole(rival, tasks, score), rng=self._rng())
                for rival in rivals
            },
        )

    def _among(self, method: str, tasks: Sequence[str], score: str) -> Iterator[tuple[float, list[float]]]:
        """For each task that has such cells, scores of its own adapter and of those made for others, more is better."""
        sign = sign_of(score)
        controls = [name for by, name in self.tables.cells if by == method and name.startswith(MADE_FOR)]
        for task in tasks:
            having = [name for name in controls if task in self.tables.cells[method, name]]
            if having:
                own, *others = (
                    sign * float(self.tables.short(method, name, [task], score)[0, 0]) for name in (RIGHT, *having)
                )
                yield own, others
