"""Tables of an evaluation from its cells: every number with its interval over tasks and seeds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict, Field

from loragen.bases.scores import FAMILIES, Scores
from loragen.config import StrictModel
from loragen.evaluation.below_base import BelowRow, below_rows
from loragen.evaluation.calibration import CalibrationRow, calibration_rows
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.condition_tables import ConditionSummariser, ConditionTables
from loragen.evaluation.controls import MADE_FOR, PARAPHRASE, RIGHT
from loragen.evaluation.likeness import Likeness
from loragen.evaluation.score_tables import ScoreTables, scores_in, sign_of
from loragen.evaluation.statistics import Interval, Table, difference_interval, gain_interval, mean_interval, win_rate

MAIN = Scores.main
KIND = "kind: "
"""Names of groups of tasks of one kind begin so."""


class SummaryRow(StrictModel):
    """One method on one group of tasks by one score."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    group: str
    """A split, ``all``, or ``kind: …``."""
    tasks: int
    method: str
    score: str
    mean: Interval
    gain: Interval | None = None
    """Recovered gain; none where the oracle gains nothing, and none for cross-entropy."""
    above: dict[str, Interval] = Field(default_factory=dict)
    """Rival → paired difference; of bits per byte and perplexity, the rival's minus the method's."""
    wins: dict[str, float] = Field(default_factory=dict)
    """Rival → share of tasks on which it is beaten; ties count half."""


class ControlRow(StrictModel):
    """Cost of another text in place of the description, on the first texts of each test file."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    group: str
    method: str
    control: str
    score: str
    mean: Interval
    cost: Interval
    """Right description minus control: above 0 where the right description is better."""


class BehaviourRow(StrictModel):
    """Forgetting and novelty of a method's adapters, means over tasks."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    method: str
    forgetting: Interval | None
    """Change of the first main score on unrelated tasks, where more is better."""
    to_mean: float | None = None
    to_nearest: float | None = None
    to_mixture: float | None = None
    replays: float | None = None
    """Share of adapters that are a copy of an expert."""


class ParaphraseSpread(StrictModel):
    """Largest minus smallest score over a task's wordings, the mean over tasks."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    method: str
    score: str
    spread: Interval


class Summary(StrictModel):
    """All tables."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    main: tuple[str, ...] = MAIN
    """Names of the scores that methods are compared by."""
    rows: tuple[SummaryRow, ...]
    controls: tuple[ControlRow, ...]
    paraphrases: tuple[ParaphraseSpread, ...]
    behaviour: tuple[BehaviourRow, ...]
    below: tuple[BelowRow, ...] = ()
    """By the first main score."""
    condition: ConditionTables = ConditionTables()
    calibration: tuple[CalibrationRow, ...] = ()

    def row(self, group: str, method: str, score: str) -> SummaryRow | None:
        """The row of a method, if there is one."""
        found = (r for r in self.rows if (r.group, r.method, r.score) == (group, method, score))
        return next(found, None)


def summarise(
    cells: Sequence[Cell],
    groups: Mapping[str, Sequence[str]],
    *,
    base: str,
    oracle: str,
    rivals: Sequence[str],
    generators: Sequence[str] = (),
    likenesses: Sequence[Likeness] = (),
    seed: int = 0,
) -> Summary:
    """Make all tables.

    Args:
        cells: of every task in the groups.
        groups: name → ids of its tasks; one of them is ``all``.
        base: the method that recovers nothing.
        oracle: the method that recovers everything.
        rivals: methods that the others are compared with.
        generators: methods of which it is asked whether the description matters to them.
        likenesses: of the adapters that they make.
        seed: of the resampling.
    """
    names = scores_in(cells)
    main = next(family.main for family in FAMILIES if family.main[0] in names)
    tables = ScoreTables.of(cells)
    made = _Summariser(tables, groups, names, main, base, oracle, tuple(rivals), seed)
    condition = ConditionSummariser(tables, _no_kinds(groups), main, seed).rows(generators)
    return Summary(
        main=main,
        rows=tuple(made.rows()),
        controls=tuple(made.controls()),
        paraphrases=tuple(made.paraphrases()),
        behaviour=tuple(made.behaviour()),
        below=tuple(below_rows(tables, _no_kinds(groups), score=main[0], base=base)),
        condition=ConditionTables(likenesses=tuple(likenesses), rows=tuple(condition)),
        calibration=tuple(calibration_rows(cells, _no_kinds(groups), base=base, seed=seed)),
    )


def _no_kinds(groups: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {group: tasks for group, tasks in groups.items() if not group.startswith(KIND)}


@dataclass(frozen=True)
class _Summariser:
    """The parts that all tables share."""

    tables: ScoreTables
    groups: Mapping[str, Sequence[str]]
    names: tuple[str, ...]
    main: tuple[str, ...]
    base: str
    oracle: str
    rivals: tuple[str, ...]
    seed: int

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)  # every interval from the same resamples of tasks

    def rows(self) -> Iterator[SummaryRow]:
        for group, tasks in self.groups.items():
            for method in self.tables.methods():
                for score in self.main if group.startswith(KIND) else self.names:
                    yield self._row(group, tasks, method, score)

    def _row(self, group: str, tasks: Sequence[str], method: str, score: str) -> SummaryRow:
        own, sign, is_gain = self.tables.whole(method, tasks, score), sign_of(score), score != "cross_entropy"
        against = {
            rival: self.tables.whole(rival, tasks, score)
            for rival in self.rivals
            if rival != method and rival in self.tables.methods()
        }
        above = {r: difference_interval(sign * own, sign * table, rng=self._rng()) for r, table in against.items()}
        return SummaryRow(
            group=group,
            tasks=len(tasks),
            method=method,
            score=score,
            mean=mean_interval(own, rng=self._rng()),
            gain=self._gain(own, tasks, score) if is_gain else None,
            above=above,
            wins={r: win_rate(sign * own, sign * table) for r, table in against.items() if is_gain},
        )

    def _gain(self, own: Table, tasks: Sequence[str], score: str) -> Interval | None:
        base, oracle = (self.tables.whole(end, tasks, score) for end in (self.base, self.oracle))
        found = gain_interval(own, base, oracle, rng=self._rng())
        return None if np.isnan(found.mean) else found

    def controls(self) -> Iterator[ControlRow]:
        for group, wanted in self.groups.items():
            for (method, control), by_task in self.tables.cells.items():
                tasks = [task for task in wanted if task in by_task]
                if control == RIGHT or control.startswith((PARAPHRASE, MADE_FOR)) or not tasks:
                    continue
                for score in self.main:
                    yield self._control_row(group, tasks, method, control, score)

    def _control_row(self, group: str, tasks: Sequence[str], method: str, control: str, score: str) -> ControlRow:
        other, right = (self.tables.short(method, name, tasks, score) for name in (control, RIGHT))
        return ControlRow(
            group=group,
            method=method,
            control=control,
            score=score,
            mean=mean_interval(other, rng=self._rng()),
            cost=difference_interval(sign_of(score) * right, sign_of(score) * other, rng=self._rng()),
        )

    def paraphrases(self) -> Iterator[ParaphraseSpread]:
        cells = self.tables.cells
        for method in self.tables.methods():
            wordings = [control for name, control in cells if name == method and control.startswith(PARAPHRASE)]
            tasks = [task for task in self.groups[ALL] if all(task in cells[method, wording] for wording in wordings)]
            if not wordings or not tasks:
                continue
            for score in self.main:
                by_wording = np.stack([self.tables.short(method, name, tasks, score) for name in (RIGHT, *wordings)])
                spread = mean_interval(np.ptp(by_wording, axis=0), rng=self._rng())
                yield ParaphraseSpread(method=method, score=score, spread=spread)

    def behaviour(self) -> Iterator[BehaviourRow]:
        for method in self.tables.methods():
            if method == self.base:
                continue
            first = [self.tables.cells[method, RIGHT][task][0] for task in self.groups[ALL]]
            changes = [cell.forgetting for cell in first if cell.forgetting is not None]
            novel = [cell.novelty for cell in first if cell.novelty is not None]
            facts: dict[str, float] = {}
            if novel:
                for name in ("to_mean", "to_nearest", "to_mixture"):
                    facts[name] = float(np.mean([getattr(novelty, name) for novelty in novel]))
                facts["replays"] = float(np.mean([novelty.is_replay for novelty in novel]))
            forgetting = mean_interval(np.array(changes)[:, None], rng=self._rng()) if changes else None
            yield BehaviourRow(method=method, forgetting=forgetting, **facts)
