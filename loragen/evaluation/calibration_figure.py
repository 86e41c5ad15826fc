"""The figure of expected against realised gains, a panel a method."""

from collections.abc import Mapping, Sequence

from loragen.errors import MissingExtraError
from loragen.evaluation.calibration import Pair, pairs_of
from loragen.evaluation.config import BASE
from loragen.evaluation.figure_parts import add_legend, look_of, splits_of, title_of
from loragen.evaluation.report_model import EvaluatedTask, Report
from loragen.plotting import FAINT, INK, short_name

try:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("Plots need matplotlib; install it with: pip install 'loragen[plot]'") from error

COLUMNS = 4
"""Most panels side by side."""


def calibration_figure(report: Report) -> Figure | None:
    """Expected gain with its interval against the realised one, for each task; `None` where nothing was expected."""
    found = pairs_of(report.cells, BASE)
    if not found:
        return None
    columns = min(COLUMNS, len(found))
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(max(3.6, 1.0 + 2.6 * columns), 1.0 + 2.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, ((method, knows), by_task) in zip(panels, found.items(), strict=False):
        _draw(axes, by_task, splits_of(report))
        axes.set_title(f"{short_name(method, limit=22)}\nknows the {knows}")
        axes.set_xlabel("expected gain")
        axes.set_ylabel("realised gain")
        axes.tick_params(labelbottom=True, labelleft=True)  # the last line of panels may be short
    for axes in panels[len(found) :]:
        axes.set_axis_off()
    add_legend(figure, panels[0])
    return figure


def _draw(axes: Axes, by_task: Mapping[str, Pair], splits: Mapping[str, Sequence[EvaluatedTask]]) -> None:
    """Draw a point a task with its interval, and the diagonal on which what was expected came true."""
    axes.axline((0, 0), slope=1, color=INK, linewidth=1, linestyle=(0, (4, 2)))
    for place in (axes.axhline, axes.axvline):
        place(0, color=FAINT, linewidth=0.8)
    for number, (split, tasks) in enumerate(splits.items()):
        look, pairs = look_of(number), [by_task[task.id] for task in tasks if task.id in by_task]
        for told, gained in pairs:
            axes.plot([told.low, told.high], [gained, gained], color=look["color"], linewidth=1.2, alpha=0.35)
        axes.plot(
            [told.gain for told, _ in pairs],
            [gained for _, gained in pairs],
            **look,
            linestyle="none",
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=title_of(split, tasks),
        )
    axes.locator_params(nbins=5)
    axes.grid()
