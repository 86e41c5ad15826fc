"""Cells: the scores of one adapter on one task, kept on disk as they come so that an interrupted evaluation goes on."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict

from loragen.bases.scores import AnyScores
from loragen.confidence.expected import ExpectedGain
from loragen.config import StrictModel
from loragen.errors import ConfigError, cut
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.novelty import Novelty
from loragen.files import atomic_write
from loragen.paths import read_capped

Key = tuple[str, str, str, int]
CELLS = "cells.jsonl"
"""Name of the file."""
LARGEST = 2**30
"""Bytes of the file."""
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
        if not self.path.exists():
            return
        content = read_capped(self.path, LARGEST, kind="cells")
        for number, line in enumerate(content.splitlines(keepends=True), 1):
            if line.endswith(b"\n"):
                yield Cell.checked(_parsed(line, f"{self.path}:{number}"), source=f"{self.path}:{number}")

    def append(self, cell: Cell) -> None:
        """Add a cell in one write."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(cell.model_dump(mode="json", exclude_defaults=True)) + "\n")

    def mend(self) -> None:
        """Cut off a half line that an interruption left, so that the next cell begins a line of its own."""
        if self.path.exists() and (content := self.path.read_bytes()) and not content.endswith(b"\n"):
            atomic_write(self.path, content[: content.rfind(b"\n") + 1])


def _parsed(line: bytes, place: str) -> object:
    try:
        return json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # no JSON, or not even text
        raise ConfigError(
            f"{place} is damaged ({cut(error)}); remove the line, and its cell is computed again."
        ) from error
