"""The figure of a sequence: the mean score of the tasks that have arrived, over time, a line a row."""

from collections.abc import Sequence
from pathlib import Path

from loragen.errors import MissingExtraError
from loragen.evaluation.sequences.rows import SequenceRow
from loragen.plotting import COLOURS, FAINT, INK, MARKERS, STYLE, short_name, write_figure

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("Plots need matplotlib; install it with: pip install 'loragen[plot]'") from error

_BOUNDS = {"joint": INK, "naive": INK, "base": FAINT}
"""Rows that the others stand between."""


def write_over_time(rows: Sequence[SequenceRow], groups: Sequence[str], path: Path) -> list[Path]:
    """Draw `over_time` and write a PNG and an SVG; ``path`` lacks the suffix."""
    return write_figure(over_time(rows, groups), path)


def over_time(rows: Sequence[SequenceRow], groups: Sequence[str]) -> Figure:
    """A line a row; the bounds are grey and dashed. The legend has the order of the lines' ends."""
    with rc_context(dict(STYLE)):
        figure = Figure(figsize=(7.5, 4), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(groups))
        ordered = sorted(rows, key=lambda row: -(row.scores.average[-1] or 0))
        for number, row in enumerate(ordered):
            known = [(at, value) for at, value in zip(places, row.scores.average, strict=True) if value is not None]
            bound = row.name in _BOUNDS
            axes.plot(
                [at for at, _ in known],
                [value for _, value in known],
                color=_BOUNDS.get(row.name, COLOURS[number % len(COLOURS)]),
                linestyle="--" if bound else "-",
                marker=MARKERS[number // len(COLOURS) % len(MARKERS)],
                markersize=4,
                linewidth=1.5,
                label=short_name(row.name),
            )
        axes.set_xticks(list(places), [short_name(name) for name in groups])
        axes.set(xlabel="group learnt last", ylabel="mean score of the tasks that have arrived")
        axes.grid(axis="y")
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure
