"""Compares recipes at several learning rates each: cells that are not there yet are computed, then a report is made."""

from collections.abc import Sequence
from pathlib import Path

from loragen.bench.cells import CELLS, BenchCell, Key, Part, file_of, known_cells
from loragen.bench.config import RecipeBenchConfig
from loragen.bench.report import MARKDOWN, REPORT, BenchReport, make_report, write_report
from loragen.bench.work import Workbench
from loragen.errors import ConfigError
from loragen.evaluation.model_lines import append_line, mend_lines
from loragen.files import sweep
from loragen.locks import lock
from loragen.progress import Progress, silent


def bench_recipes(
    config: RecipeBenchConfig | Path,
    progress: Progress = silent,
    *,
    overrides: Sequence[str] = (),
    part: str | None = None,
) -> BenchReport | None:
    """Compare recipes for the training of experts, each at several learning rates, and write a report with a figure.

    A recipe's rate is chosen by losses on slices of the train files, never by the test scores that are reported. An
    interrupted run goes on where it was, and cells of an earlier run with the same settings are kept.

    Args:
        config: settings, or a YAML file of them.
        progress: called with the stage, the cells done and their total.
        overrides: ``key.sub=value`` each, for a YAML file.
        part: such as ``1/2``: only this share of the cells, so that several processes can do the work side by side.

    Returns:
        The report; `None` for a part while cells of the others are missing.

    Raises:
        ConfigError: the settings or the part do not fit, the folder holds files of others, another process does the
            same part, or every training diverged.
        TaskError: there is no such task, or its files cannot be used.
    """
    settings = config if isinstance(config, RecipeBenchConfig) else RecipeBenchConfig.from_yaml(config, overrides)
    share = None if part is None else Part.parse(part)
    _refuse_others(settings.out)
    with lock(settings.out if share is None else settings.out / share.file_name):
        bench = Workbench.open(settings)
        cells = _computed(bench, share, progress)
        if cells is None:
            return None
        report = make_report(settings, bench.plan, cells)
        write_report(report)
        if share is None:
            sweep(settings.out)
    return report


def _computed(bench: Workbench, part: Part | None, progress: Progress) -> list[BenchCell] | None:
    """All cells in the order of the plan, after those that are missing in this part; `None` if others still are."""
    folder = bench.config.out
    file = file_of(folder, part)
    mend_lines(file)
    known = known_cells(folder)
    mine = bench.plan if part is None else bench.plan[part.number - 1 :: part.of]
    done = sum(planned.key in known for planned in mine)
    progress("cells", done, len(mine))
    for planned in mine:
        if planned.key not in known:
            cell = bench.compute(planned)
            append_line(file, cell)
            known[cell.key] = cell
            done += 1
            progress("cells", done, len(mine))
    return _all_of(bench, known if part is None else known_cells(folder))


def _all_of(bench: Workbench, known: dict[Key, BenchCell]) -> list[BenchCell] | None:
    keys = [planned.key for planned in bench.plan]
    return [known[key] for key in keys] if all(key in known for key in keys) else None


def _refuse_others(folder: Path) -> None:
    """Refuse a folder with a report and no cells: that report is not ours."""
    there = [name for name in (REPORT, MARKDOWN) if (folder / name).exists()]
    if there and not any(folder.glob("cells*.jsonl")):
        raise ConfigError(f"{folder / there[0]} is there without the cells of it ({CELLS}); give another 'out'.")
