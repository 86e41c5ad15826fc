"""Further sections of a report as Markdown: tasks below the base, worth of the condition, calibration."""

from loragen.confidence.expected import COVERAGE
from loragen.escaping import markdown as escaped
from loragen.evaluation.below_base import FALL_BACK, MARGIN, BelowBase
from loragen.evaluation.condition_tables import ConditionRow
from loragen.evaluation.config import RANDOM, mean_output
from loragen.evaluation.likeness import Likeness
from loragen.evaluation.markdown_parts import markdown_table, span
from loragen.evaluation.report_model import TITLES, Report
from loragen.evaluation.summary import Summary

CONDITION = (
    "A generator that uses its description makes adapters that differ between tasks (cosines well below 1), that are "
    "better for their own task than those made for other tasks (rank above .5), and that beat what reads no "
    "description: the mean of its own outputs, and experts drawn at random."
)
CALIBRATION = (
    "What could be expected of each adapter before its test texts were looked at, against the label-text accuracy that "
    f"it gained over the base. {COVERAGE:.0%} of tasks should lie in their intervals."
)


def below_table(summary: Summary, group: str) -> str:
    """Share of tasks on which each method is below the base, and its lowest difference, also with a fall-back."""
    rows = [row for row in summary.below if row.group == group]
    has_fall_back = any(row.with_fall_back for row in rows)
    title = TITLES[rows[0].score] if rows else ""
    head = [f"{title} against the base", f"tasks below by more than {MARGIN:g}", "lowest difference", "on"]
    if has_fall_back:
        head += [f"{name}{FALL_BACK}" for name in head[1:]]
    body = [
        [
            escaped(row.method),
            *_below_cells(row.below),
            *(_below_cells(row.with_fall_back) if has_fall_back else []),
        ]
        for row in rows
    ]
    return markdown_table(head, body)


def _below_cells(below: BelowBase | None) -> list[str]:
    if below is None:
        return ["", "", ""]
    return [f"{below.share:.0%}", f"{below.lowest:+.3f}", escaped(below.lowest_task)]


def condition_section(report: Report) -> list[str]:
    """What it is about, cosines, and ranks and differences: a table for each group and main score."""
    condition, parts = report.summary.condition, [CONDITION]
    if condition.likenesses:
        parts.append(likeness_table(condition.likenesses))
    for group in report.shown_groups(kinds=False):
        for score in report.summary.main:
            rows = [row for row in condition.rows if (row.group, row.score) == (group, score)]
            if rows:
                parts.append(condition_table(rows))
    return parts


def likeness_table(likenesses: tuple[Likeness, ...]) -> str:
    """Mean cosines between the adapters of different tasks."""
    head = ["cosine between adapters of two tasks", "tasks", "as they are", "less the mean expert"]
    body = [[escaped(one.method), str(one.tasks), _number(one.cosine), _number(one.centred)] for one in likenesses]
    return markdown_table(head, body)


def condition_table(rows: list[ConditionRow]) -> str:
    """Rank among other tasks' adapters and differences to what reads no description; rows of one group and score."""
    rivals = sorted({_kind_of(rival, row) for row in rows for rival in row.above}, key=lambda rival: rival == RANDOM)
    first = rows[0]
    title = f"{escaped(first.group)}, {TITLES[first.score]}"
    head = [title, "rank among other tasks' adapters", *(f"above {escaped(rival)}" for rival in rivals)]
    body = []
    for row in rows:
        above = {_kind_of(rival, row): interval for rival, interval in row.above.items()}
        differences = [span(above[rival], signed=True) if rival in above else "" for rival in rivals]
        body.append([escaped(row.method), span(row.rank, digits=2) if row.rank else "", *differences])
    return markdown_table(head, body)


def calibration_section(report: Report) -> str:
    """Expected against realised gains, a row for each group and method."""
    groups = report.shown_groups(kinds=False)
    head = ["tasks", "adapter", "knows", "expected", "realised", "mean absolute error", "rank correlation"]
    head.append(f"in the {COVERAGE:.0%} interval")
    body = [
        [
            f"{escaped(row.group)} ({row.calibration.tasks})",
            escaped(row.method),
            row.knows,
            f"{row.calibration.expected:+.3f}",
            f"{row.calibration.realised:+.3f}",
            f"{row.calibration.error:.3f}",
            span(row.calibration.rank_correlation, digits=2, signed=True) if row.calibration.rank_correlation else "",
            f"{row.calibration.coverage:.0%}",
        ]
        for row in report.summary.calibration
        if row.group in groups
    ]
    return f"{CALIBRATION}\n\n{markdown_table(head, body)}"


def _kind_of(rival: str, row: ConditionRow) -> str:
    """A rival's name with the generator's own left out, so that all generators share a column."""
    return rival.replace(mean_output(row.method), "the mean of its outputs")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
