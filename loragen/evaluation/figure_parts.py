"""Shared by the figures of an evaluation: tasks by split, looks, titles, a legend below the panels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from loragen.evaluation.report_model import EvaluatedTask, Report
from loragen.plotting import COLOURS, MARKERS, short_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def splits_of(report: Report) -> dict[str, list[EvaluatedTask]]:
    """Split → its tasks."""
    splits: dict[str, list[EvaluatedTask]] = {}
    for task in report.tasks:
        splits.setdefault(task.split, []).append(task)
    return splits


def look_of(number: int) -> dict[str, Any]:
    """Colour and marker of a split, the same in all figures."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def title_of(split: str, tasks: Sequence[EvaluatedTask]) -> str:
    """Name of a split and the number of its tasks."""
    return f"{short_name(split, limit=20)} ({len(tasks)} task{'s' if len(tasks) > 1 else ''})"


def add_legend(figure: "Figure", axes: "Axes") -> None:
    """Name the splits below the figure, side by side where there is room."""
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=max(1, int(figure.get_figwidth() // 2.8)),
    )
