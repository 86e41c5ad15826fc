"""The cells of one task: which there are, and their making; one adapter is scored once."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.bases.scores import AnyScores
from loragen.compose.composition import Composition
from loragen.confidence.expected import ExpectedGain
from loragen.evaluation.cells import Cell, Key
from loragen.evaluation.config import RANDOM
from loragen.evaluation.controls import RIGHT, controls, made_for_others
from loragen.evaluation.methods import adapter_of, instruction_of
from loragen.evaluation.run_record import adapter_digest
from loragen.evaluation.scoring import Scorer
from loragen.evaluation.workspace import Workspace, task_rng
from loragen.tasks.task_set import Task


def keys_of(workspace: Workspace, task: Task) -> Iterator[Key]:
    """Keys of all cells of a task, in their order."""
    seeds = workspace.config.seeds
    for method in workspace.methods:
        pipeline = workspace.pipelines.get(workspace.falling_back.get(method, method))
        is_drawn = method in workspace.fitted or method == RANDOM
        is_stochastic = is_drawn or (pipeline is not None and pipeline.generator.is_stochastic)
        for seed in seeds if is_stochastic else seeds[:1]:
            yield task.id, method, RIGHT, seed
        if method in workspace.pipelines:
            for control in _control_texts(workspace, task):
                yield task.id, method, control, seeds[0]


def _control_texts(workspace: Workspace, task: Task) -> dict[str, str]:
    """Control → the text that takes the description's place."""
    config, tasks = workspace.config, workspace.tasks
    texts = controls(task, tasks, rng=task_rng(task, "controls")) if config.with_controls else {}
    number = config.condition.others if config.condition else 0
    return texts | made_for_others(task, tasks, number, rng=task_rng(task, "others"))


@dataclass
class _ScoresByAdapter:
    """Scores of one task's adapters: nearest, for example, often gives one adapter for several descriptions."""

    kept: dict[str, tuple[AnyScores | None, AnyScores]] = field(default_factory=dict)
    """Digest of the adapter → scores on the whole test file, where they are known, and on its first texts."""

    @classmethod
    def of(cls, cells: Sequence[Cell]) -> "_ScoresByAdapter":
        found = cls()
        for cell in cells:
            if cell.scores is not None or cell.adapter not in found.kept:
                found.kept[cell.adapter] = cell.scores, cell.short
        return found

    def lacks(self, digest: str, *, whole: bool) -> bool:
        return digest not in self.kept or (whole and self.kept[digest][0] is None)


def missing_cells(workspace: Workspace, scorer: Scorer, task: Task, known: Mapping[Key, Cell]) -> Iterator[Cell]:
    """Compute the cells of a task that are not known, one after the other."""
    keys, texts = tuple(keys_of(workspace, task)), _control_texts(workspace, task)
    scored = _ScoresByAdapter.of([known[key] for key in keys if key in known])
    for key in keys:
        if key not in known:
            yield _cell(workspace, scorer, task, key, texts.get(key[2], task.description), scored)
        elif expected := _missing_expectation(workspace, task, known[key]):
            yield known[key].model_copy(update={"expected": expected})


def _missing_expectation(workspace: Workspace, task: Task, cell: Cell) -> ExpectedGain | None:
    """What is expected of the adapter of a cell that was computed before anything was."""
    if cell.expected is not None or cell.control != RIGHT or not workspace.expects(cell.method):
        return None
    return _expected(
        workspace, task, cell.method, adapter_of(workspace, task, cell.method, task.description, cell.seed)
    )


def _expected(workspace: Workspace, task: Task, method: str, adapter: Lora | Composition | None) -> ExpectedGain | None:
    """What is expected of an adapter made from the right description; `None` of what no generator made."""
    if not isinstance(adapter, Lora) or method not in workspace.pipelines or not workspace.expects(method):
        return None
    return workspace.expect(method, task, adapter)


def _cell(
    workspace: Workspace, scorer: Scorer, task: Task, key: Key, description: str, scored: _ScoresByAdapter
) -> Cell:
    _, method, control, seed = key
    begun = time.monotonic()
    adapter = adapter_of(workspace, task, method, description, seed)
    instruction = instruction_of(workspace, task, method, description)
    is_right, digest = control == RIGHT, adapter_digest(adapter, instruction)
    if scored.lacks(digest, whole=is_right):
        scored.kept[digest] = scorer.scores(task, adapter, instruction, whole=is_right)
    scores, short = scored.kept[digest]
    facts: dict[str, Any] = {"expected": _expected(workspace, task, method, adapter) if is_right else None}
    if is_right and seed == workspace.config.seeds[0] and adapter is not None:
        if method in workspace.pipelines and isinstance(adapter, Lora):
            facts["novelty"] = workspace.reference.novelty(adapter)
        forgetting_begun = time.monotonic()
        facts["forgetting"] = scorer.forgetting(task, adapter, instruction)
        facts["forgetting_seconds"] = round(time.monotonic() - forgetting_begun, 3)
    return Cell(
        task=task.id,
        method=method,
        control=control,
        seed=seed,
        adapter=digest,
        scores=scores if is_right else None,
        short=short,
        seconds=round(time.monotonic() - begun, 3),
        **facts,
    )
