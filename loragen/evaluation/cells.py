"""Cells: the scores of one adapter on one task, kept on disk as they come so that an interrupted evaluation goes on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from loragen.bases.scores import AnyScores
from loragen.confidence.expected import ExpectedGain
from loragen.config import StrictModel
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.model_lines import append_line, mend_lines, read_lines
from loragen.evaluation.novelty import Novelty

Key = tuple[str, str, str, int]
CELLS = "cells.jsonl"
"""Name of the file."""
ALL = "all"
"""Name of the group of all tasks; no split may be called so."""


class Cell(StrictModel):
    """Scores of one adapter on one task, and some facts about it."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    task: str
    method: str
    control: str = RIGHT
    """Name of the text that the generator read in place of the description."""
    seed: int = 0
    adapter: str
    """Digest of the adapter, and of the instruction it is used with."""
    scores: AnyScores | None = None
    """On the whole test file; controls have none."""
    short: AnyScores
    """On the first texts of the test file, where controls are compared."""
    novelty: Novelty | None = None
    forgetting: float | None = None
    """Mean change of the first main score against the base on unrelated tasks; below 0 where the adapter harms them."""
    expected: ExpectedGain | None = None
    """What could be expected of a generator's adapter beforehand."""
    seconds: float
    """Time for the whole cell."""
    forgetting_seconds: float = 0.0
    """The part of that time spent on unrelated tasks."""

    @property
    def key(self) -> Key:
        """Task, method, control, seed."""
        return self.task, self.method, self.control, self.seed


@dataclass(frozen=True)
class CellFile:
    """Cells as lines of JSON, of one key the last; a line that was cut off by an interruption is dropped."""

    path: Path

    def read(self) -> Iterator[Cell]:
        """The cells whose lines are whole.

        Raises:
            ConfigError: a whole line is no cell.
        """
        return read_lines(self.path, Cell)

    def append(self, cell: Cell) -> None:
        """Add a cell in one write."""
        append_line(self.path, cell)

    def mend(self) -> None:
        """Cut off a half line that an interruption left, so that the next cell begins a line of its own."""
        mend_lines(self.path)
