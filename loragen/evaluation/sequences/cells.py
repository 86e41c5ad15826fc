"""Cells of a sequence: scores of the adapter that one row makes for one task at one moment, kept as they come."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from pydantic import Field

from loragen.adapters.adapter import Lora
from loragen.adapters.products import distance
from loragen.bases.base import Base
from loragen.bases.scores import LESS_IS_MORE
from loragen.bases.tokenised import TaskData
from loragen.config import StrictModel
from loragen.evaluation.model_lines import append_line, mend_lines, read_lines
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.evaluation.workspace import shuffled
from loragen.tasks.task_set import Task, TaskSet
from loragen.values import MOST_PARTS
from loragen.zoo.zoo import Zoo

Key = tuple[str, int, str]
"""Row, moment, task."""
CELLS = "cells.jsonl"


class SequenceCell(StrictModel):
    """The score of one adapter."""

    row: str
    """A strategy, or a rival of them."""
    moment: int = Field(ge=0, le=MOST_PARTS)
    """How many groups had arrived before the last one that was learnt."""
    task: str
    score: float
    """The first main score on the task's test texts, negated where less is better."""
    error: float | None = None
    """‖ΔW - ΔW*‖ / ‖ΔW*‖ to the task's own expert, over all sites; `None` for the bare base."""

    @property
    def key(self) -> Key:
        """What tells the cell from all others."""
        return self.row, self.moment, self.task


@dataclass(frozen=True, eq=False)
class Scoring:
    """Tasks and base of a sequence; scores adapters once."""

    config: SequenceConfig
    zoo: Zoo
    base: Base
    tasks: TaskSet
    known: dict[Key, SequenceCell]
    _data: dict[str, TaskData] = field(default_factory=dict)

    @classmethod
    def open(cls, config: SequenceConfig, zoo: Zoo, base: Base) -> "Scoring":
        """Read the task file, and the cells of earlier runs.

        Raises:
            TaskError: there is no such task.
            ConfigError: a line of the cells is none.
        """
        tasks = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
        for task in config.ids:
            _ = tasks[task]
        mend_lines(config.out / CELLS)
        known = {cell.key: cell for cell in read_lines(config.out / CELLS, SequenceCell)}
        return cls(config, zoo, base, tasks, known)

    def cells(self, row: str, moment: int, adapter_for: Callable[[Task], Lora | None]) -> Iterator[SequenceCell]:
        """The cells of all tasks, those that are to come too; each is written down as soon as it is known."""
        for name in self.config.ids:
            key = row, moment, name
            if key not in self.known:
                cell = self._scored(row, moment, self.tasks[name], adapter_for(self.tasks[name]))
                append_line(self.config.out / CELLS, cell)
                self.known[key] = cell
            yield self.known[key]

    def lacks(self, row: str, moment: int) -> bool:
        """True if a task has no cell there."""
        return any((row, moment, name) not in self.known for name in self.config.ids)

    def _scored(self, row: str, moment: int, task: Task, adapter: Lora | None) -> SequenceCell:
        scores = self.base.score(self._texts(task), adapter)
        (name, *_) = scores.main
        value = float(getattr(scores, name))
        error = None
        if adapter is not None:
            expert = self.zoo.adapter(task.id)
            error = round(distance(adapter, expert) / expert.norm(), 5)
        score = round(-value if name in LESS_IS_MORE else value, 5)
        return SequenceCell(row=row, moment=moment, task=task.id, score=score, error=error)

    def _texts(self, task: Task) -> TaskData:
        if task.id not in self._data:
            length = self.zoo.manifest.recipe.score_length
            self._data[task.id] = self.base.prepare(shuffled(task), max_length=length).first(self.config.texts)
        return self._data[task.id]
