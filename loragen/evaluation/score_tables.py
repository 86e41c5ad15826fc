"""Cells as tables of numbers, (tasks, seeds), for a method, a control and a score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from loragen.bases.scores import LESS_IS_MORE, AnyScores
from loragen.evaluation.cells import Cell
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.statistics import Table


@dataclass(frozen=True)
class ScoreTables:
    """Cells grouped by method and control."""

    cells: Mapping[tuple[str, str], Mapping[str, Sequence[Cell]]]
    """(method, control) → task → cells by seed."""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "ScoreTables":
        """Group cells."""
        grouped: dict[tuple[str, str], dict[str, list[Cell]]] = {}
        for cell in sorted(cells, key=lambda cell: cell.seed):
            grouped.setdefault((cell.method, cell.control), {}).setdefault(cell.task, []).append(cell)
        return cls(grouped)

    def methods(self) -> list[str]:
        """Methods in the order of their first cells."""
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


def scores_in(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Names of the scores that all whole test files have, the main ones first."""
    whole = [cell.scores for cell in cells if cell.scores is not None]
    names = dict.fromkeys([*whole[0].main, *type(whole[0]).model_fields])
    return tuple(name for name in names if all(getattr(scores, name, None) is not None for scores in whole))


def sign_of(score: str) -> int:
    """-1 where less is better and differences are turned round; cross-entropy's are given as they are."""
    return -1 if score in LESS_IS_MORE and score != "cross_entropy" else 1


def _value(scores: AnyScores | None, score: str) -> float:
    assert scores is not None
    return float(getattr(scores, score))
