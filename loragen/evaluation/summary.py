"""Tables of an evaluation from its cells: every number with its interval over tasks and seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from loragen.bases.scores import FAMILIES, LESS_IS_MORE, AnyScores, Scores
from loragen.config import StrictModel
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.controls import PARAPHRASE, RIGHT
from loragen.evaluation.statistics import Interval, Table, difference_interval, gain_interval, mean_interval, win_rate

MAIN = Scores.main
KIND = "kind: "


class Row(StrictModel):
    """One method on one group of tasks by one score."""

    group: str
    """A split, ``all``, or ``kind: …``."""
    tasks: int
    method: str
    score: str
    mean: Interval
    gain: Interval | None = None
    """Recovered gain; none where the oracle gains nothing, and none for cross-entropy."""
    above: dict[str, Interval] = Field(default_factory=dict)
    """Rival → paired difference; of bits per byte and perplexity, how far below the rival."""
    wins: dict[str, float] = Field(default_factory=dict)
    """Rival → share of tasks on which it is beaten; ties count half."""


class ControlRow(StrictModel):
    """What it costs a generator to be told something else, on the first texts of each test file."""

    group: str
    method: str
    control: str
    score: str
    mean: Interval
    cost: Interval
    """Right description minus control: above 0 where the description is worth something."""


class Behaviour(StrictModel):
    """What a method's adapters are like, on the mean."""

    method: str
    forgetting: Interval | None
    """Change of the first main score on unrelated tasks, where more is better."""
    to_mean: float | None = None
    to_nearest: float | None = None
    to_mixture: float | None = None
    replays: float | None = None
    """Share of adapters that give back an expert."""


class ParaphraseSpread(StrictModel):
    """How much the wording matters: largest minus smallest score over a task's wordings, the mean over tasks."""

    method: str
    score: str
    spread: Interval


class Summary(StrictModel):
    """All tables."""

    main: tuple[str, ...] = MAIN
    """Names of the scores that methods are compared by."""
    rows: tuple[Row, ...]
    controls: tuple[ControlRow, ...]
    paraphrases: tuple[ParaphraseSpread, ...]
    behaviour: tuple[Behaviour, ...]

    def row(self, group: str, method: str, score: str) -> Row | None:
        """The row of a method, if there is one."""
        found = (r for r in self.rows if (r.group, r.method, r.score) == (group, method, score))
        return next(found, None)


@dataclass(frozen=True)
class Tables:
    """Cells as tables (tasks, seeds)."""

    cells: Mapping[tuple[str, str], Mapping[str, Sequence[Cell]]]
    """(method, control) → task → cells by seed."""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "Tables":
        """Group cells."""
        grouped: dict[tuple[str, str], dict[str, list[Cell]]] = {}
        for cell in sorted(cells, key=lambda cell: cell.seed):
            grouped.setdefault((cell.method, cell.control), {}).setdefault(cell.task, []).append(cell)
        return cls(grouped)

    def methods(self) -> list[str]:
        """In the order of their first cells."""
        return list(dict.fromkeys(method for method, control in self.cells if control == RIGHT))

    def whole(self, method: str, tasks: Sequence[str], score: str) -> Table:
        """Scores on the whole test files."""
        return self._table(method, RIGHT, tasks, lambda cell: _value(cell.scores, score))

    def short(self, method: str, control: str, tasks: Sequence[str], score: str) -> Table:
        """Scores on the first texts; of several seeds the first, as controls have."""
        return self._table(method, control, tasks, lambda cell: _value(cell.short, score))[:, :1]

    def _table(self, method: str, control: str, tasks: Sequence[str], value: Callable[[Cell], float]) -> Table:
        by_task = self.cells[method, control]
        return np.array([[value(cell) for cell in by_task[task]] for task in tasks])


def _value(scores: AnyScores | None, score: str) -> float:
    assert scores is not None
    return float(getattr(scores, score))


def scores_in(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Names of the scores that all whole test files have, the main ones first."""
    whole = [cell.scores for cell in cells if cell.scores is not None]
    names = dict.fromkeys([*whole[0].main, *type(whole[0]).model_fields])
    return tuple(name for name in names if all(getattr(scores, name, None) is not None for scores in whole))


def _sign(score: str) -> int:
    """-1 where less is better and differences are turned round; cross-entropy's are given as they are."""
    return -1 if score in LESS_IS_MORE and score != "cross_entropy" else 1


def summarise(
    cells: Sequence[Cell],
    groups: Mapping[str, Sequence[str]],
    *,
    base: str,
    oracle: str,
    rivals: Sequence[str],
    seed: int = 0,
) -> Summary:
    """Make all tables.

    Args:
        cells: of every task in the groups.
        groups: name → ids of its tasks; one of them is ``all``.
        base: the method that recovers nothing.
        oracle: the method that recovers everything.
        rivals: methods that the others are compared with.
        seed: of the resampling.
    """
    tables, names = Tables.of(cells), scores_in(cells)
    main = next(family.main for family in FAMILIES if family.main[0] in names)
    present = [rival for rival in rivals if rival in tables.methods()]

    def rng() -> np.random.Generator:
        return np.random.default_rng(seed)  # every interval from the same resamples of tasks

    rows = []
    for group, tasks in groups.items():
        for method in tables.methods():
            for score in main if group.startswith(KIND) else names:
                own = tables.whole(method, tasks, score)
                against = {rival: tables.whole(rival, tasks, score) for rival in present if rival != method}
                is_gain = score != "cross_entropy"
                ends = [tables.whole(end, tasks, score) for end in (base, oracle)]
                rows.append(
                    Row(
                        group=group,
                        tasks=len(tasks),
                        method=method,
                        score=score,
                        mean=mean_interval(own, rng=rng()),
                        gain=_gain(own, *ends, rng=rng()) if is_gain else None,
                        above={
                            rival: difference_interval(_sign(score) * own, _sign(score) * table, rng=rng())
                            for rival, table in against.items()
                        },
                        wins={
                            rival: win_rate(_sign(score) * own, _sign(score) * table)
                            for rival, table in against.items()
                            if is_gain
                        },
                    )
                )
    return Summary(
        main=main,
        rows=tuple(rows),
        controls=tuple(_controls(tables, groups, main, rng)),
        paraphrases=tuple(_paraphrases(tables, groups[ALL], main, rng)),
        behaviour=tuple(_behaviour(tables, method, groups[ALL], rng) for method in tables.methods() if method != base),
    )


def _gain(own: Table, base: Table, oracle: Table, *, rng: np.random.Generator) -> Interval | None:
    found = gain_interval(own, base, oracle, rng=rng)
    return None if np.isnan(found.mean) else found


def _controls(
    tables: Tables, groups: Mapping[str, Sequence[str]], main: Sequence[str], rng: Callable[[], np.random.Generator]
) -> list[ControlRow]:
    rows = []
    for group, wanted in groups.items():
        for (method, control), by_task in tables.cells.items():
            tasks = [task for task in wanted if task in by_task]
            if control == RIGHT or control.startswith(PARAPHRASE) or not tasks:
                continue
            for score in main:
                told, right = (tables.short(method, name, tasks, score) for name in (control, RIGHT))
                rows.append(
                    ControlRow(
                        group=group,
                        method=method,
                        control=control,
                        score=score,
                        mean=mean_interval(told, rng=rng()),
                        cost=difference_interval(_sign(score) * right, _sign(score) * told, rng=rng()),
                    )
                )
    return rows


def _paraphrases(
    tables: Tables, wanted: Sequence[str], main: Sequence[str], rng: Callable[[], np.random.Generator]
) -> list[ParaphraseSpread]:
    rows = []
    for method in tables.methods():
        wordings = [control for name, control in tables.cells if name == method and control.startswith(PARAPHRASE)]
        tasks = [task for task in wanted if all(task in tables.cells[method, wording] for wording in wordings)]
        if not wordings or not tasks:
            continue
        for score in main:
            told = np.stack([tables.short(method, name, tasks, score) for name in (RIGHT, *wordings)])
            spread = mean_interval(np.ptp(told, axis=0), rng=rng())
            rows.append(ParaphraseSpread(method=method, score=score, spread=spread))
    return rows


def _behaviour(tables: Tables, method: str, tasks: Sequence[str], rng: Callable[[], np.random.Generator]) -> Behaviour:
    first = [tables.cells[method, RIGHT][task][0] for task in tasks]
    changes = [cell.forgetting for cell in first if cell.forgetting is not None]
    novel = [cell.novelty for cell in first if cell.novelty is not None]
    facts: dict[str, float] = {}
    if novel:
        for name in ("to_mean", "to_nearest", "to_mixture"):
            facts[name] = float(np.mean([getattr(novelty, name) for novelty in novel]))
        facts["replays"] = float(np.mean([novelty.is_replay for novelty in novel]))
    forgetting = mean_interval(np.array(changes)[:, None], rng=rng()) if changes else None
    return Behaviour(method=method, forgetting=forgetting, **facts)
