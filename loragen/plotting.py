"""Figures, with matplotlib from the extra `plot`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from loragen.errors import MissingExtraError

try:
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("Plots need matplotlib; install it with: pip install 'loragen[plot]'") from error


def loss_curves(rows: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw every loss of ``rows`` over ``step``, on a logarithmic axis, and write a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    names = [name for name in rows[0] if name != "step"]
    for name in names:
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=name, linewidth=1.5)
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
