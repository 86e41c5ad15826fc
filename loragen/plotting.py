"""Shared by all figures, with matplotlib from the extra `plot`: colours, files, room for labels; and loss curves."""

from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loragen.errors import MissingExtraError
from loragen.escaping import figure_text, plain
from loragen.files import atomic_write

try:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("Plots need matplotlib; install it with: pip install 'loragen[plot]'") from error

Floats = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""After Okabe and Ito: told apart by colour-blind readers too."""
INK, FAINT = "#333333", "#B8B8B8"
MARKERS = ("o", "s", "D", "8")
"""Wide enough to hold a number."""

STYLE: Mapping[str, Any] = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}
"""For `rc_context` around the drawing of a figure."""


def loss_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw every loss of ``rows`` over ``step``, where there is one, on a logarithmic axis, and write a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    for name in names:
        known = [row for row in rows if name in row]
        axes.plot([row["step"] for row in known], [row[name] for row in known], label=short_name(name), linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def write_figure(figure: Figure, path: Path) -> list[Path]:
    """Write a PNG and an SVG beside each other, the same bytes each time; ``path`` lacks the suffix."""
    written = []
    for suffix, metadata in ((".png", {}), (".svg", {"Date": None})):
        buffer = BytesIO()
        with rc_context({"svg.hashsalt": path.name}):
            figure.savefig(buffer, format=suffix[1:], dpi=150, metadata=metadata)
        figure.set_layout_engine("none")  # parts are placed once, for both files
        written.append(path.with_name(path.name + suffix))
        atomic_write(written[-1], buffer.getvalue())
    return written


def short_name(name: str, *, limit: int = 30) -> str:
    """A name on one line and cut in its middle where it is long, as figures show it."""
    line, half = plain(name), (limit - 1) // 2
    return figure_text(line if len(line) <= limit else f"{line[:half]}…{line[-half:]}")


def apart(values: Floats, gap: float, low: float, high: float) -> Floats:
    """Move values (n,) as little as possible until neighbours are ``gap`` apart, within ``low`` and ``high``.

    The order is kept, and the sum of squared moves is the least there is. Where the room is too small for all, they
    start at ``low`` and go beyond ``high``.
    """
    from sklearn.isotonic import isotonic_regression

    order = np.argsort(values, kind="stable")
    steps = gap * np.arange(len(values))
    level = isotonic_regression(values[order] - steps, y_min=low, y_max=max(low, high - steps[-1]))
    placed = np.empty(len(values))
    placed[order] = level + steps
    return placed


def pushed_apart(
    points: Floats, distance: float, low: Floats, high: Floats, *, fixed: Floats, clearance: float
) -> Floats:
    """Push points off each other and off fixed ones; each stays near where it was, and there if nothing is close.

    Args:
        points: (n, 2).
        distance: wanted between any two of them.
        low: lower corner of the box that holds them, (2,).
        high: its upper corner.
        fixed: points that stay, (m, 2).
        clearance: wanted between a point and a fixed one.

    Returns:
        The points, (n, 2); a box without room for them leaves some closer than wanted.
    """
    number = len(points)
    wanted = np.concatenate([np.full((number, number), distance), np.full((number, len(fixed)), clearance)], axis=1)
    np.fill_diagonal(wanted, -np.inf)
    turns = 2.4 * np.arange(number)  # the golden angle: points in one place part in all directions
    placed = points + 1e-3 * distance * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    for _ in range(500):
        offsets = placed[:, None] - np.concatenate([placed, fixed])
        lengths = np.linalg.norm(offsets, axis=-1)
        if (lengths >= wanted).all():
            break
        # Each of two goes a little more than half the way, or the last overlap would never end.
        pushes = offsets * (np.maximum(1.02 * wanted - lengths, 0) / np.maximum(lengths, 1e-9))[..., None] / 2
        placed = np.clip(placed + pushes.sum(1) / np.maximum((lengths < wanted).sum(1), 1)[:, None], low, high)
    return placed
