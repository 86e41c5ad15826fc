"""The report of a comparison of recipes: made from its cells, and written as JSON, Markdown and a figure."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ConfigDict

from loragen.bench.cells import BenchCell
from loragen.bench.config import RecipeBenchConfig
from loragen.bench.markdown import markdown, notes
from loragen.bench.summary import BenchSummary, RecipeCells, summarise
from loragen.bench.work import Planned
from loragen.config import StrictModel
from loragen.errors import ConfigError, MissingExtraError
from loragen.files import atomic_write
from loragen.recipes.registry import row_of

REPORT, MARKDOWN, FIGURE = "report.json", "report.md", "learning-rates"


class BenchReport(StrictModel):
    """The report of a comparison of recipes."""

    model_config = ConfigDict(allow_inf_nan=True)

    config: RecipeBenchConfig
    summary: BenchSummary
    cells: tuple[BenchCell, ...]
    versions: dict[str, str]

    @property
    def notes(self) -> list[str]:
        """What must be known beside the tables: trainings that diverged, rates at the edge of those compared."""
        return notes(self.summary)

    @property
    def files(self) -> list[Path]:
        """Files of the report that lie in its folder."""
        names = (REPORT, MARKDOWN, f"{FIGURE}.png", f"{FIGURE}.svg")
        return [path for name in names if (path := self.config.out / name).is_file()]


def make_report(config: RecipeBenchConfig, plan: Sequence[Planned], cells: Sequence[BenchCell]) -> BenchReport:
    """Sum up all cells of a plan, which are in its order.

    Raises:
        ConfigError: every training diverged.
    """
    scores = next((cell.scores for cell in cells if cell.scores is not None), None)
    if scores is None:
        raise ConfigError(f"Every one of the {len(cells)} trainings diverged; give lower 'learning_rates'.")
    found: dict[str, dict[tuple[str, float, int], BenchCell]] = {}
    for planned, cell in zip(plan, cells, strict=True):
        found.setdefault(planned.label, {})[cell.task, cell.learning_rate, cell.seed] = cell
    summary = summarise(
        {label: (recipe.name, row_of(recipe).axis) for label, recipe in config.labelled.items()},
        {label: RecipeCells(own, config.ids, config.learning_rates, config.seeds) for label, own in found.items()},
        main=scores.main,
        reference=config.reference,
    )
    versions = {name: version(name) for name in ("loragen", "torch", "transformers")}
    return BenchReport(config=config, summary=summary, cells=tuple(cells), versions=versions)


def write_report(report: BenchReport) -> None:
    """Write a report as JSON and as Markdown, and its figure where matplotlib is installed."""
    folder = report.config.out
    atomic_write(folder / REPORT, report.model_dump_json(indent=1) + "\n")
    atomic_write(folder / MARKDOWN, markdown(report.config, report.summary, report.cells))
    try:
        from loragen.bench.figure import write_curves
    except MissingExtraError:
        return
    write_curves(report.summary, folder / FIGURE)
