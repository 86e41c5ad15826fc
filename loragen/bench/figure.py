"""The figure of a comparison of recipes: a panel a recipe, its score over the learning rate, plain LoRA's in grey."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path

from loragen.bench.summary import BenchSummary, CurvePoint, RecipeSummary
from loragen.errors import MissingExtraError
from loragen.evaluation.report_model import TITLES
from loragen.plotting import COLOURS, FAINT, INK, STYLE, short_name, write_figure

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("Plots need matplotlib; install it with: pip install 'loragen[plot]'") from error

COLUMNS = 4
"""Panels side by side."""


def write_curves(summary: BenchSummary, path: Path) -> list[Path]:
    """Draw `curves` and write a PNG and an SVG; ``path`` lacks the suffix."""
    return write_figure(curves(summary), path)


def curves(summary: BenchSummary) -> Figure:
    """A panel a recipe, in the order of the config: its mean score over the learning rate, on a logarithmic axis.

    The filled point is the rate that held-out losses chose. Rates at which a training diverged are crosses at the
    bottom.
    """
    number = len(summary.recipes)
    columns = min(COLUMNS, number)
    with rc_context(dict(STYLE)):
        figure = Figure(figsize=(max(3.6, 2.2 * columns), 0.9 + 1.7 * ceil(number / columns)), layout="constrained")
        panels = figure.subplots(ceil(number / columns), columns, sharex=True, sharey=True, squeeze=False).ravel()
        low, high = _limits(summary.recipes)
        reference = next(one for one in summary.recipes if one.label == summary.reference)
        for panel, one in zip(panels, summary.recipes, strict=False):
            _draw(panel, one, reference, COLOURS[0], low)
            panel.set(xscale="log", ylim=(low, high))
        for panel in panels[number:]:
            panel.set_visible(False)
        for place in range(number):
            panels[place].tick_params(labelbottom=place + columns >= number)
        grey = f" (in grey: {short_name(summary.reference)})" if number > 1 else ""
        figure.supxlabel(f"learning rate{grey}", fontsize=9)
        figure.supylabel(TITLES[summary.score], fontsize=9)
    return figure


def _limits(recipes: Sequence[RecipeSummary]) -> tuple[float, float]:
    """Least and greatest score of trainings that went well, with some room."""
    scores = [point.score for one in recipes for point in one.curve if point.score is not None and not point.diverged]
    room = 0.08 * (max(scores, default=1) - min(scores, default=0)) or 0.02
    return min(scores, default=0) - room, max(scores, default=1) + room


def _draw(panel: Axes, one: RecipeSummary, reference: RecipeSummary, colour: str, low: float) -> None:
    if one.label != reference.label:
        panel.plot(*_line(reference.curve), color=FAINT, linewidth=1.6)
    panel.plot(*_line(one.curve), color=colour, linewidth=1.6, marker="o", markersize=4, markerfacecolor="white")
    best = [point for point in one.curve if point.learning_rate == one.best_rate]
    panel.plot(*_line(best), color=colour, marker="o", markersize=6, linestyle="none")
    diverged = [point.learning_rate for point in one.curve if point.diverged]
    if diverged:  # an empty line that is not clipped takes the layout's room
        panel.plot(diverged, [low] * len(diverged), color=INK, marker="x", linestyle="none", clip_on=False)
    title = panel.set_title(short_name(one.label, limit=26), loc="left", fontsize=8.5)
    title.set_in_layout(False)  # a long one must not make its panel smaller than the others
    panel.grid(axis="y")


def _line(points: Sequence[CurvePoint]) -> tuple[list[float], list[float]]:
    """Rates and scores of the points at which nothing diverged."""
    known = [(point.learning_rate, point.score) for point in points if point.score is not None and not point.diverged]
    return [rate for rate, _ in known], [score for _, score in known]
