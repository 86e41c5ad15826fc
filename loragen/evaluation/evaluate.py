"""Evaluates generators on tasks that their zoo has not seen: every rival, every control, one cell an adapter."""

from collections.abc import Sequence
from pathlib import Path

from loragen.evaluation.cells import CELLS, Cell, CellFile
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.likeness import likenesses_of
from loragen.evaluation.report import make_report, write_report
from loragen.evaluation.report_model import Report
from loragen.evaluation.run_record import keep_record
from loragen.evaluation.task_cells import keys_of
from loragen.evaluation.workers import computed_cells
from loragen.evaluation.workspace import Workspace
from loragen.files import sweep
from loragen.locks import lock
from loragen.progress import Progress, silent


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
    plan = {task.id: tuple(keys_of(workspace, task)) for task in workspace.tasks}
    keys = [key for of_task in plan.values() for key in of_task]
    progress("adapters", len(known.keys() & set(keys)), len(keys))
    for cell in computed_cells(workspace, plan, known):
        file.append(cell)
        known[cell.key] = cell
        progress("adapters", len(known.keys() & set(keys)), len(keys))
    return workspace, [known[key] for key in keys]
