"""The table of docs/recipes.md, from the report that `loragen bench recipes` made of configs/bench/recipes.yaml.

    loragen bench recipes configs/bench/recipes.yaml --set out=benchmarks/results/recipes
    python benchmarks/recipe_tables.py

The first trains 576 experts and goes on where it was.
"""

from pathlib import Path

from loragen.bench.markdown import rate_text, sensitivity_text
from loragen.bench.report import REPORT, BenchReport
from loragen.escaping import markdown as escaped
from loragen.evaluation.markdown_parts import markdown_table, span

RESULTS = Path("benchmarks/results/recipes")


def kept() -> BenchReport:
    """The report of the last run."""
    return BenchReport.model_validate_json((RESULTS / REPORT).read_text())


def table(report: BenchReport) -> str:
    """A row a recipe, the best first."""
    summary = report.summary
    found = {one.label: one for one in summary.recipes}
    head = ["recipe", "best rate", "accuracy", f"above {escaped(summary.reference)}", "a rate off", "rank", "numbers"]
    body = [
        [
            escaped(label),
            rate_text(one.best_rate) + ("\\*" if one.is_at_edge else ""),
            "" if one.score is None else f"{one.score.mean:.3f}",
            "" if one.above_reference is None else span(one.above_reference, signed=True),
            sensitivity_text(one),
            "" if one.rank is None else f"{one.rank:.1f}",
            "" if one.parameters is None else f"{one.parameters:,.0f}",
        ]
        for label in summary.by_best
        for one in (found[label],)
    ]
    return markdown_table(head, body)


if __name__ == "__main__":
    print(table(kept()))
