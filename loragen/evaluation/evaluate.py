"""Evaluates generators on tasks that their zoo has not seen: every rival, every control, one cell an adapter."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.bases.scores import AnyScores
from loragen.confidence.expected import ExpectedGain
from loragen.evaluation.cells import CELLS, Cell, CellFile, Key
from loragen.evaluation.config import RANDOM, EvaluateConfig
from loragen.evaluation.controls import RIGHT, controls, made_for_others
from loragen.evaluation.likeness import likenesses_of
from loragen.evaluation.methods import adapter_of, instruction_of
from loragen.evaluation.report import make_report, write_report
from loragen.evaluation.report_model import Report
from loragen.evaluation.run_record import adapter_digest, keep_record
from loragen.evaluation.scoring import Scorer
from loragen.evaluation.workspace import Workspace, task_rng
from loragen.files import sweep
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.tasks.task_set import Task


def evaluate_generators(
    config: EvaluateConfig | Path, progress: Progress = silent, *, overrides: Sequence[str] = ()
) -> Report:
    """Evaluate generators, and write the report with its figures into the folder ``config.out`` (`Report.files`).

    Cells that an earlier run left there are kept, also where the config has gained methods since.

    Args:
        config: settings, or a YAML file of them.
        progress: called with the stage, the cells done and their total.
        overrides: ``key.sub=value`` each, for a YAML file.

    Raises:
        ConfigError: the folder holds cells of other settings, tasks or adapters, or a report of others, or another
            process writes there; or a task, or its family where that is checked, is among the zoo's experts; or zoo,
            oracles and base do not go together.
        TaskError: there is no such split, or a task's file cannot be used.
        ZooError: there is no such zoo, or an oracle is missing.
        GeneratorError: there is no such generator.
    """
    settings = config if isinstance(config, EvaluateConfig) else EvaluateConfig.from_yaml(config, overrides)
    with lock(settings.out):
        workspace, cells = _cells(settings, progress)
        report = make_report(workspace, cells, likenesses=likenesses_of(workspace, progress))
        write_report(report, settings.out)
        sweep(settings.out)
    return report


def evaluate_cells(config: EvaluateConfig, progress: Progress = silent) -> tuple[Workspace, list[Cell]]:
    """Compute every cell that is not on disk, without a report; arguments and errors as in `evaluate_generators`."""
    with lock(config.out):
        return _cells(config, progress)


def _cells(config: EvaluateConfig, progress: Progress) -> tuple[Workspace, list[Cell]]:
    workspace = Workspace.open(config)
    file = CellFile(config.out / CELLS)
    keep_record(workspace, file)
    known = {cell.key: cell for cell in file.read()}
    plan = {key: None for task in workspace.tasks for key in _keys(workspace, task)}
    progress("adapters", len(known.keys() & plan.keys()), len(plan))
    scorer = Scorer(workspace)
    for task in workspace.tasks:
        for cell in _missing_cells(workspace, scorer, task, known):
            file.append(cell)
            known[cell.key] = cell
            progress("adapters", len(known.keys() & plan.keys()), len(plan))
    return workspace, [known[key] for key in plan]


def _keys(workspace: Workspace, task: Task) -> Iterator[Key]:
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


def _missing_cells(workspace: Workspace, scorer: Scorer, task: Task, known: Mapping[Key, Cell]) -> Iterator[Cell]:
    keys, texts = tuple(_keys(workspace, task)), _control_texts(workspace, task)
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


def _expected(workspace: Workspace, task: Task, method: str, adapter: Lora | None) -> ExpectedGain | None:
    """What is expected of an adapter made from the right description; `None` of what no generator made."""
    if adapter is None or method not in workspace.pipelines or not workspace.expects(method):
        return None
    return workspace.expect(method, task, adapter)


def _cell(
    workspace: Workspace, scorer: Scorer, task: Task, key: Key, description: str, scored: _ScoresByAdapter
) -> Cell:
    _, method, control, seed = key
    begun = time.monotonic()
    adapter, instruction = adapter_of(workspace, task, method, description, seed), instruction_of(task, method)
    is_right, digest = control == RIGHT, adapter_digest(adapter, instruction)
    if scored.lacks(digest, whole=is_right):
        scored.kept[digest] = scorer.scores(task, adapter, instruction, whole=is_right)
    scores, short = scored.kept[digest]
    facts: dict[str, Any] = {"expected": _expected(workspace, task, method, adapter) if is_right else None}
    if is_right and seed == workspace.config.seeds[0] and adapter is not None:
        if method in workspace.pipelines:
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
