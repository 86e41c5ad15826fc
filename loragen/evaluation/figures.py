"""The figures of an evaluation: gain by method and by similarity, scores of each task, map of the zoo, calibration."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from loragen.bases.scores import LESS_IS_MORE
from loragen.errors import MissingExtraError
from loragen.evaluation.calibration_figure import calibration_figure
from loragen.evaluation.cells import ALL
from loragen.evaluation.config import BASE, MULTITASK, ORACLE
from loragen.evaluation.figure_parts import add_legend, look_of, splits_of, title_of
from loragen.evaluation.report_model import TITLES, EvaluatedTask, MapPoint, Report
from loragen.evaluation.score_tables import ScoreTables
from loragen.evaluation.statistics import Interval
from loragen.plotting import COLOURS, FAINT, INK, STYLE, apart, pushed_apart, short_name, write_figure

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise MissingExtraError("Plots need matplotlib; install it with: pip install 'loragen[plot]'") from error

SHOWN = ("sg", "icm", "topk", MULTITASK)
"""Methods whose gains are set against similarity, where they took part."""
GAINS = (-1.0, 2.0)
"""Recovered gains beyond are drawn as arrows: with little to gain, intervals are arbitrarily wide."""
LINES = 32
"""Number of lines in a column of names beside the map."""
KIND_LOOKS = (
    ("#7FA8C9", "o"),
    ("#D9A679", "s"),
    ("#8FBC9A", "^"),
    ("#C79BB5", "D"),
    ("#C9BE62", "v"),
    (FAINT, "X"),
)
"""Colours and markers of experts, paler than `COLOURS`; the last are those of rarer kinds."""


def evaluation_plots(report: Report, folder: Path) -> list[Path]:
    """Draw every figure of `evaluation_figures` into ``folder``, as PNG and as SVG."""
    figures = evaluation_figures(report)
    return [path for name, figure in figures.items() for path in write_figure(figure, folder / name)]


def evaluation_figures(report: Report) -> dict[str, Figure]:
    """Name → figure: ``gains``, ``similarity``, ``slopes``, ``map``; ``calibration`` where a gain was expected."""
    with rc_context(dict(STYLE)):
        figures = {
            "gains": _gains(report),
            "similarity": _similarity(report),
            "slopes": _slopes(report),
            "map": _map(report),
        }
        calibration = calibration_figure(report)
    return figures | ({"calibration": calibration} if calibration else {})


def _methods(report: Report) -> list[str]:
    """Everything between the base and the oracle."""
    return [
        method for method in dict.fromkeys(row.method for row in report.summary.rows) if method not in (BASE, ORACLE)
    ]


def _scores(report: Report, method: str, score: str) -> dict[str, float]:
    """Task → mean over seeds."""
    ids = [task.id for task in report.tasks]
    means = ScoreTables.of(report.cells).whole(method, ids, score).mean(1).round(9)  # equal scores of several seeds tie
    return dict(zip(ids, means.tolist(), strict=True))


# --- Recovered gain ---------------------------------------------------------------------------------------------------


def _gains(report: Report) -> Figure:
    """Recovered gain of every method, the best on top: a panel a score, a row a method, a colour a split."""
    nan = Interval(np.nan, np.nan, np.nan)
    gains = {(row.group, row.method, row.score): row.gain or nan for row in report.summary.rows}
    main = report.summary.main
    methods = sorted(_methods(report), key=lambda method: -np.nan_to_num(gains[ALL, method, main[0]].mean))
    splits = splits_of(report)
    height = max(0.34, 0.15 * len(splits) + 0.08)
    figure = Figure(figsize=(9, 2.0 + height * len(methods)), layout="constrained")
    for axes, score in zip(figure.subplots(1, len(main), sharey=True, squeeze=False)[0], main, strict=True):
        found = {(s, m): gains[s, m, score] for s in splits for m in methods}
        _gain_axes(axes, [gain for gain in found.values() if not np.isnan(gain.mean)])
        for number, (split, tasks) in enumerate(splits.items()):
            shift = 0.15 * (number - (len(splits) - 1) / 2) / height
            for row, method in enumerate(methods):
                _draw_interval(axes, row + shift, found[split, method], look_of(number))
            axes.plot([], [], **look_of(number), markersize=5, label=title_of(split, tasks))
        nothing = [split for split in splits if all(np.isnan(found[split, method].mean) for method in methods)]
        axes.set_title(TITLES[score], pad=18)
        axes.set_xlabel("\n".join(["recovered gain", *(f"{short_name(s)}: the oracle gains nothing" for s in nothing)]))
        axes.set_yticks(range(len(methods)), [short_name(method) for method in methods])
        axes.set_ylim(len(methods) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
    add_legend(figure, axes)
    return figure


def _gain_axes(axes: Axes, gains: Sequence[Interval]) -> None:
    """Set limits that hold the intervals but no extremes, and mark the gains 0 (base) and 1 (oracle)."""
    left = max(GAINS[0], min([0.0, *(gain.low for gain in gains)]))
    right = min(GAINS[1], max([1.0, *(gain.high for gain in gains)]))
    margin = 0.05 * (right - left)
    axes.set_xlim(left - margin, right + margin)
    axes.locator_params(axis="x", nbins=6)
    axes.grid(axis="x")
    for place, name in ((0, BASE), (1, ORACLE)):
        axes.axvline(place, color=INK, linewidth=1, linestyle=(0, (4, 2)))
        axes.text(place, 1.01, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=INK)


def _draw_interval(axes: Axes, y: float, gain: Interval, look: Mapping[str, Any]) -> None:
    """Draw mean and interval; an end beyond the limits becomes an arrow."""
    if np.isnan(gain.mean):
        return
    low, high = GAINS
    axes.plot(np.clip([gain.low, gain.high], low, high), [y, y], color=look["color"], linewidth=1.6, alpha=0.55)
    if low <= gain.mean <= high:
        axes.plot(gain.mean, y, **look, markersize=5, linestyle="none")
    for end, arrow, is_beyond in ((low, "<", gain.low < low), (high, ">", gain.high > high)):
        if is_beyond:
            axes.plot(end, y, arrow, color=look["color"], markersize=4)


# --- Gain against similarity ------------------------------------------------------------------------------------------


def _similarity(report: Report) -> Figure:
    """Each task's score above the base against its similarity to the zoo: a row a score, a column a method."""
    methods = [method for method in SHOWN if method in _methods(report)] or _methods(report)[: len(SHOWN)]
    splits, main = splits_of(report), report.summary.main
    figure = Figure(figsize=(1.6 + 2.3 * len(methods), 5.4), layout="constrained")
    panels = figure.subplots(len(main), len(methods), sharex=True, sharey="row", squeeze=False)
    for row, score in zip(panels, main, strict=True):
        base = _scores(report, BASE, score)
        for axes, method in zip(row, methods, strict=True):
            reached = _scores(report, method, score)
            for number, (split, tasks) in enumerate(splits.items()):
                axes.plot(
                    [task.similarity for task in tasks],
                    [reached[task.id] - base[task.id] for task in tasks],
                    **look_of(number),
                    linestyle="none",
                    markersize=5.5,
                    alpha=0.8,
                    markeredgecolor="white",
                    markeredgewidth=0.5,
                    label=title_of(split, tasks),
                )
            axes.axhline(0, color=INK, linewidth=0.8)
            axes.grid()
        row[0].set_ylabel(f"{TITLES[score]}\nabove the base")
    for axes, method in zip(panels[0], methods, strict=True):
        axes.set_title(short_name(method, limit=22))
    for axes in panels[-1]:
        axes.set_xlabel("similarity to the nearest expert")
        axes.locator_params(axis="x", nbins=4)
    add_legend(figure, axes)
    return figure


# --- Slopes -----------------------------------------------------------------------------------------------------------


def _slopes(report: Report) -> Figure:
    """Each task's score under the base, the best generator and its oracle, joined by a line: a panel a split."""
    best, splits = _best(report), splits_of(report)
    score = report.summary.main[0]
    steps = [_scores(report, method, score) for method in (BASE, best, ORACLE)]
    most = max(len(tasks) for tasks in splits.values())
    figure = Figure(figsize=(0.8 + 4.4 * len(splits), max(4.5, 1.4 + 0.17 * most)), layout="constrained")
    panels = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
    for axes, (split, tasks) in zip(panels, splits.items(), strict=True):
        for task in tasks:
            _draw_slope(axes, [step[task.id] for step in steps], is_less_more=score in LESS_IS_MORE)
        axes.set_title(title_of(split, tasks))
        axes.set_xticks(range(3), [BASE, short_name(best, limit=14), ORACLE])
        axes.set_xlim(-0.15, 2.05)
        axes.grid(axis="y")
    panels[0].set_ylabel(TITLES[score])
    named = {"better than the base": COLOURS[0], "worse than the base": COLOURS[1], "to the oracle": FAINT}
    for name, colour in named.items():
        panels[0].plot([], [], color=colour, linewidth=1.5, label=name)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.draw_without_rendering()  # lays out: names need to know how high the panels are
    for axes, tasks in zip(panels, splits.values(), strict=True):
        _name_slopes(axes, {task.id: steps[-1][task.id] for task in tasks})
    return figure


def _best(report: Report) -> str:
    """The generator that is best by the first main score; any other method where there is no generator."""
    methods = _methods(report)
    generators = [method for method in methods if method in report.config.generators] or methods
    score = report.summary.main[0]
    sign = -1 if score in LESS_IS_MORE else 1
    return max(generators, key=lambda method: sign * np.mean(list(_scores(report, method, score).values())))


def _draw_slope(axes: Axes, way: Sequence[float], *, is_less_more: bool) -> None:
    colour = FAINT if way[1] == way[0] else COLOURS[int((way[1] < way[0]) != is_less_more)]
    axes.plot([1, 2], way[1:], color=FAINT, linewidth=1.1, marker="o", markersize=3)
    axes.plot([0, 1], way[:2], color=colour, linewidth=1.5, marker="o", markersize=3)


def _name_slopes(axes: Axes, ends: Mapping[str, float]) -> None:
    """Write the tasks' names at the right edge, each joined to its line by a thin one."""
    low, high = axes.get_ylim()
    gap = 11 * axes.figure.dpi / 72 / axes.get_window_extent().height * (high - low)
    heights = apart(np.array(list(ends.values())), gap, low, high)
    for (name, end), height in zip(ends.items(), heights, strict=True):
        axes.plot([2.03, 2.12, 2.17], [end, height, height], color=FAINT, linewidth=0.6, clip_on=False)
        axes.text(2.19, height, short_name(name), fontsize=7.5, va="center_baseline", color=INK)


# --- Map --------------------------------------------------------------------------------------------------------------


def _map(report: Report) -> Figure:
    """Descriptions in the plane: experts by kind, evaluated tasks as numbers with their names beside."""
    splits = splits_of(report)
    columns = _columns(splits)
    figure = Figure(figsize=(7.4 + 2.5 * columns, 1.2 + 0.19 * LINES), layout="constrained")
    axes, listing = figure.subplots(1, 2, width_ratios=(7, 2.3 * columns))
    _draw_experts(axes, report.experts)
    axes.plot([task.x for task in report.tasks], [task.y for task in report.tasks], linestyle="none")  # makes room
    axes.set(xticks=[], yticks=[], title="descriptions: what is alike lies close (t-SNE, axes without units)")
    axes.margins(0.06)
    axes.set_aspect("equal", adjustable="datalim")
    axes.spines[:].set(visible=True, color=FAINT)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=6, title="experts, by kind", columnspacing=1.2)
    _list_tasks(listing, splits)
    figure.draw_without_rendering()  # lays out: badges need to know how far apart they come to lie
    _place_badges(axes, report)
    return figure


def _draw_experts(axes: Axes, experts: Sequence[MapPoint]) -> None:
    """Draw the experts of the commonest kinds apart, and all others alike."""
    counts = Counter(expert.kind for expert in experts)
    common = sorted(counts, key=lambda kind: (-counts[kind], kind))[: len(KIND_LOOKS) - 1]
    groups = {short_name(kind or "no kind"): [e for e in experts if e.kind == kind] for kind in common}
    rest = [expert for expert in experts if expert.kind not in common]
    if rest:
        groups["rarer kinds"] = rest
    for (label, group), (colour, marker) in zip(groups.items(), KIND_LOOKS, strict=False):
        axes.scatter(
            [e.x for e in group], [e.y for e in group], color=colour, marker=marker, s=22, linewidths=0, label=label
        )


def _place_badges(axes: Axes, report: Report) -> None:
    """Draw the numbers of the tasks at their places, or beside them with a line where one would cover something."""
    splits = splits_of(report)
    pixels, box, diameter = axes.transData, axes.get_window_extent(), 12.5 * axes.figure.dpi / 72
    anchors = np.array([(task.x, task.y) for tasks in splits.values() for task in tasks])
    places = pushed_apart(
        pixels.transform(anchors),
        diameter,
        np.array(box.min) + diameter,
        np.array(box.max) - diameter,
        fixed=pixels.transform([(expert.x, expert.y) for expert in report.experts]),
        clearance=0.8 * diameter,
    )
    looks = [look_of(number) for number, tasks in enumerate(splits.values()) for _ in tasks]
    for count, (anchor, place, look) in enumerate(
        zip(anchors, pixels.inverted().transform(places), looks, strict=True), 1
    ):
        axes.plot(*zip(anchor, place, strict=True), color=look["color"], linewidth=0.9, zorder=3)
        axes.plot(*anchor, ".", color=look["color"], markersize=4, zorder=3)
        _badge(axes, place[0], place[1], count, look)


def _badge(axes: Axes, x: float, y: float, count: int, look: Mapping[str, Any]) -> None:
    axes.scatter(x, y, **look, s=115, edgecolors="white", linewidths=0.6, zorder=4)
    axes.text(x, y, str(count), color="white", fontsize=6.5, weight="bold", ha="center", va="center_baseline", zorder=5)


def _list_tasks(axes: Axes, splits: Mapping[str, Sequence[EvaluatedTask]]) -> None:
    """Write the name of each number, in columns one unit wide."""
    axes.set_axis_off()
    axes.set(xlim=(0, _columns(splits)), ylim=(LINES, 0))
    line, count = 0, 0
    for number, (split, tasks) in enumerate(splits.items()):
        column, row = divmod(line, LINES)
        axes.text(column, row + 0.5, title_of(split, tasks), weight="bold", va="center_baseline", color=INK)
        for task in tasks:
            line, count = line + 1, count + 1
            column, row = divmod(line, LINES)
            _badge(axes, column + 0.05, row + 0.5, count, look_of(number))
            axes.text(column + 0.1, row + 0.5, short_name(task.id), fontsize=8, va="center_baseline", color=INK)
        line += 2


def _columns(splits: Mapping[str, Sequence[EvaluatedTask]]) -> int:
    lines = sum(len(tasks) + 2 for tasks in splits.values()) - 1
    return -(-lines // LINES)
