"""Scores of adapters on the tasks of an evaluation; texts are tokenised once, and one adapter is scored once."""

import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import AnyScores, main_score, scores_of
from loragen.bases.tokenised import TaskData
from loragen.compose.composition import Composition
from loragen.evaluation.run_record import adapter_digest
from loragen.evaluation.workspace import Workspace, shuffled, task_rng
from loragen.tasks.task_set import Task


class Scorer:
    """Scores adapters on the tasks of a workspace, and keeps what it has tokenised and scored."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._tokenised: dict[str, TaskData] = {}
        self._on_unrelated: dict[tuple[str, str], float] = {}  # (digest of an adapter, task) → first main score

    def data(self, task: Task, instruction: str | None = None) -> TaskData:
        """A task's test file made ready for the base, in the order of `shuffled`."""
        if instruction is not None:
            return self._prepared(task, instruction)
        if task.id not in self._tokenised:
            self._tokenised[task.id] = self._prepared(task, None)
        return self._tokenised[task.id]

    def scores(
        self, task: Task, adapter: Lora | Composition | None, instruction: str | None, *, whole: bool
    ) -> tuple[AnyScores | None, AnyScores]:
        """Scores on the whole test file, `None` unless ``whole``, and on its first texts."""
        base, data, short = self._workspace.base, self.data(task, instruction), self._workspace.config.short
        if data.is_open or not whole:
            return scores_on(base, data, adapter) if whole else None, scores_on(base, data.first(short), adapter)
        readout = base.read(data, adapter)
        return scores_of(readout, clustering=True), scores_of(readout.first(short))

    def forgetting(self, task: Task, adapter: Lora | Composition, instruction: str | None) -> float | None:
        """Mean change of the first main score against the base on some tasks of other families; `None` without any."""
        others, number = self._workspace.unrelated(task), self._workspace.config.unrelated
        order = torch.randperm(len(others), generator=task_rng(task, "unrelated"))[:number]
        changes = [
            self._main_score(others[i], adapter, instruction) - self._main_score(others[i], None, None)
            for i in order.tolist()
        ]
        return round(sum(changes) / len(changes), 5) if changes else None

    def _main_score(self, task: Task, adapter: Lora | Composition | None, instruction: str | None) -> float:
        key = adapter_digest(adapter, instruction), task.id
        if key not in self._on_unrelated:
            data = self.data(task, instruction).first(self._workspace.config.unrelated_texts)
            self._on_unrelated[key] = main_score(scores_on(self._workspace.base, data, adapter))
        return self._on_unrelated[key]

    def _prepared(self, task: Task, instruction: str | None) -> TaskData:
        length = self._workspace.zoo.manifest.recipe.score_length
        return self._workspace.base.prepare(shuffled(task), max_length=length, instruction=instruction)


def scores_on(base: Base, data: TaskData, adapter: Lora | Composition | None) -> AnyScores:
    """Scores of an adapter on a task's data, whichever kind of scores that has."""
    return base.score(data, adapter) if data.is_open else scores_of(base.read(data, adapter))
