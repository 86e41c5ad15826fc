"""Cells of a comparison of recipes: one training each, kept on disk as they come."""

import re
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from loragen.bases.scores import AnyScores
from loragen.config import StrictModel
from loragen.errors import ConfigError, shown
from loragen.evaluation.model_lines import read_lines
from loragen.values import LARGEST_LAYER, MOST_PARTS, MOST_STEPS, Seed

Key = tuple[str, str, float, int]
"""Digest of all that the cell depends on but for the rest of the key; task; learning rate; seed."""
CELLS = "cells.jsonl"


class BenchCell(StrictModel):
    """An expert that was trained by one recipe at one learning rate on one task with one seed, and its scores."""

    recipe: str
    """Its name."""
    conditions: str
    """Digest of the recipe's settings, the base, the task and its files, and the number of test texts."""
    task: str
    learning_rate: float = Field(gt=0)
    seed: Seed
    scores: AnyScores | None = None
    """On the test texts; `None` where training diverged: the expert or its loss is not finite."""
    held_out_loss: float | None = None
    """On the slice of the train file that was not trained on; `None` where it is not finite."""
    steps: int = Field(0, ge=0, le=MOST_STEPS)
    """Length of training that did best on that slice."""
    rank: float = Field(0, ge=0, le=LARGEST_LAYER)
    """Of the adapter, the mean over its sites."""
    parameters: int = Field(0, ge=0, le=10**11)
    """Numbers in the adapter, A and B, trained or not."""
    seconds: float = Field(ge=0)
    """Training and scoring."""

    @property
    def key(self) -> Key:
        """What tells the cell from all others."""
        return self.conditions, self.task, self.learning_rate, self.seed

    @property
    def has_diverged(self) -> bool:
        """True if it has no scores."""
        return self.scores is None


@dataclass(frozen=True)
class Part:
    """A share of the cells, for one of several processes: the ``number``-th of ``of``."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """A part from a text such as ``1/2``.

        Raises:
            ConfigError: it is none.
        """
        match = re.fullmatch(r"(\d{1,4})/(\d{1,4})", text)
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_PARTS:
            raise ConfigError(f"The part {shown(text)} is none; wanted a number and how many, such as 1/2 and 2/2.")
        return cls(int(match[1]), int(match[2]))

    @property
    def file_name(self) -> str:
        """Name of the file of its cells; each process has its own, so that none writes in another's."""
        return f"cells-{self.number}-of-{self.of}.jsonl"


def file_of(folder: Path, part: Part | None) -> Path:
    """The file that a process adds its cells to."""
    return folder / (CELLS if part is None else part.file_name)


def known_cells(folder: Path) -> dict[Key, BenchCell]:
    """The cells in all files of a folder, those of other settings too.

    Raises:
        ConfigError: a whole line of a file is no cell.
    """
    return {cell.key: cell for path in sorted(folder.glob("cells*.jsonl")) for cell in read_lines(path, BenchCell)}
