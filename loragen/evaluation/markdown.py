"""The report of an evaluation to read, as Markdown: a table a group, controls, behaviour, time."""

from loragen.escaping import markdown as escaped
from loragen.escaping import markdown_code
from loragen.evaluation.cells import ALL
from loragen.evaluation.condition_tables import ConditionTables
from loragen.evaluation.controls import MADE_FOR, RIGHT
from loragen.evaluation.markdown_parts import markdown_table, span
from loragen.evaluation.markdown_sections import below_table, calibration_section, condition_section
from loragen.evaluation.report_model import TITLES, Report
from loragen.evaluation.summary import KIND, Summary, SummaryRow


def markdown(report: Report) -> str:
    """A report as Markdown."""
    summary = report.summary
    parts = ["# Evaluation", _about(report)]
    for group in report.shown_groups():
        count = next(row.tasks for row in summary.rows if row.group == group)
        parts.append(f"## {escaped(group)} ({count} tasks)\n\n{main_table(summary, group)}")
        if not group.startswith(KIND):
            parts.append(score_table(summary, group))
            parts.append(below_table(summary, group))
    if summary.controls:
        parts.append(f"## Another text in place of the description\n\n{control_table(summary, ALL)}")
    if summary.condition != ConditionTables():
        parts += ["## Does the condition matter?", *condition_section(report)]
    if summary.calibration:
        parts.append(f"## Expected and realised gain\n\n{calibration_section(report)}")
    parts.append(f"## Forgetting and novelty\n\n{behaviour_table(summary)}")
    parts.append(f"## Time\n\n{_time(report)}")
    return "\n\n".join(parts) + "\n"


def _about(report: Report) -> str:
    zoo, splits = markdown_code(str(report.config.zoo)), ", ".join(map(escaped, report.config.splits))
    return (
        f"Zoo {zoo} ({escaped(report.zoo_hash[:12])}), {len(report.tasks)} tasks of {splits}, seeds "
        f"{', '.join(map(str, report.config.seeds))}. Intervals hold the central 95 % of "
        "resampled tasks and seeds; differences are paired."
    )


def _time(report: Report) -> str:
    whole = sum(cell.seconds for cell in report.cells)
    parts = {
        "forgetting": sum(cell.forgetting_seconds for cell in report.cells),
        "controls": sum(cell.seconds for cell in report.cells if cell.control != RIGHT),
    }
    if any(cell.control.startswith(MADE_FOR) for cell in report.cells):
        parts["other tasks' adapters"] = sum(c.seconds for c in report.cells if c.control.startswith(MADE_FOR))
        parts["controls"] -= parts["other tasks' adapters"]
    texts = f"{whole / 60:.0f} minutes: " if whole >= 60 else f"{whole:.0f} s: "
    rest = {"scores on the test files": whole - sum(parts.values())} | parts
    slowest = sorted(report.seconds.items(), key=lambda item: -item[1])
    return (
        texts
        + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in rest.items())
        + ". By row, controls and forgetting included: "
        + ", ".join(f"{escaped(method)} {seconds:.0f} s" for method, seconds in slowest)
        + "."
    )


def main_table(summary: Summary, group: str) -> str:
    """Mean, recovered gain, differences to rivals and shares of tasks won, a table for each main score."""
    blocks = []
    for score in summary.main:
        rows = [row for row in summary.rows if row.group == group and row.score == score]
        rivals = list(dict.fromkeys(rival for row in rows for rival in row.above))
        head = [
            TITLES[score],
            "mean",
            "recovered gain",
            *(f"above {escaped(r)}" for r in rivals),
            *(f"beats {escaped(r)}" for r in rivals),
        ]
        body = [
            [
                escaped(row.method),
                span(row.mean),
                span(row.gain, digits=2) if row.gain else "",
                *(span(row.above[r], signed=True) if r in row.above else "" for r in rivals),
                *(f"{row.wins[r]:.0%}" if r in row.wins else "" for r in rivals),
            ]
            for row in rows
        ]
        blocks.append(markdown_table(head, body))
    return "\n\n".join(blocks)


def score_table(summary: Summary, group: str) -> str:
    """The other scores, means alone."""
    found: dict[str, dict[str, SummaryRow]] = {}
    for row in summary.rows:
        if row.group == group:
            found.setdefault(row.method, {})[row.score] = row
    others = [score for score in next(iter(found.values())) if score not in summary.main]
    body = [[escaped(method), *(f"{by[score].mean.mean:.3f}" for score in others)] for method, by in found.items()]
    return markdown_table(["other scores", *(TITLES[score] for score in others)], body)


def control_table(summary: Summary, group: str) -> str:
    """Cost of each control for each generator."""
    rows = [row for row in summary.controls if row.group == group]
    spreads = {(row.method, row.score): row.spread for row in summary.paraphrases}
    names = list(dict.fromkeys(row.control for row in rows))
    blocks = []
    for score in summary.main:
        costs = {(row.method, row.control): row.cost for row in rows if row.score == score}
        body = [
            [
                escaped(method),
                *(span(costs[method, name], signed=True) if (method, name) in costs else "" for name in names),
                span(spreads[method, score]) if (method, score) in spreads else "",
            ]
            for method in dict.fromkeys(row.method for row in rows)
        ]
        head = [f"{TITLES[score]}: right description minus", *map(escaped, names), "spread over wordings"]
        blocks.append(markdown_table(head, body))
    return "\n\n".join(blocks)


def behaviour_table(summary: Summary) -> str:
    """Forgetting and novelty."""
    body = [
        [
            escaped(row.method),
            span(row.forgetting, signed=True) if row.forgetting else "",
            *("" if value is None else f"{value:.2f}" for value in (row.to_mean, row.to_nearest, row.to_mixture)),
            "" if row.replays is None else f"{row.replays:.0%}",
        ]
        for row in summary.behaviour
    ]
    head = ["adapter", "on unrelated tasks", "to mean", "to nearest expert", "to best mixture", "replays"]
    return markdown_table(head, body)
