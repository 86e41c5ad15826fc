"""Tables of `setfit_rival.py`, as Markdown."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

RESULTS = Path("benchmarks/results/setfit_rival.json")
SHOTS = 8
"""Examples of each class."""
Figures = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Row → task → draw → score by name."""


def kept() -> dict[str, Any]:
    """Split → figures, and the versions that SetFit ran with."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table(figures: Figures, rows: Sequence[str], *, against: str | None = None) -> str:
    """Rows on the tasks and draws that all of them have, as Markdown; `""` where there are none.

    Rows of label texts alone have a cross-entropy. Means are over tasks of the means over draws; the spread is the
    standard deviation of a draw's mean, where all tasks have the same draws, and the standard error of a difference is
    that over the tasks.
    """
    cells = [
        (task, draw)
        for task, draws in figures.get(rows[0], {}).items()
        for draw in draws
        if all(draw in figures.get(row, {}).get(task, {}) for row in rows)
    ]
    if not cells:
        return ""
    tasks = sorted({task for task, _ in cells})
    drawn = [{draw for task, draw in cells if task == each} for each in tasks]
    draws = sorted(drawn[0], key=int) if all(each == drawn[0] for each in drawn) else []
    head = [
        f"{len(tasks)} tasks, {_numbers(list(map(len, drawn)))} of {SHOTS} a class",
        "accuracy",
        "over draws",
        "macro-F1",
        "cross-entropy",
    ]
    lines = [f"| {' | '.join([*head, *([f'less {against}'] if against else [])])} |"]
    lines.append("|---" * lines[0].count(" | ") + "|---|")
    for row in rows:
        by_task = {score: _by_task(figures, row, cells, score) for score in ("accuracy", "macro_f1")}
        by_draw = [mean(figures[row][t][draw]["accuracy"] for t in tasks) for draw in draws]
        line = [row, f"{mean(by_task['accuracy']):.3f}", f"{stdev(by_draw):.3f}" if len(draws) > 1 else ""]
        line.append(f"{mean(by_task['macro_f1']):.3f}")
        has_loss = all("cross_entropy" in figures[row][t][d] for t, d in cells)
        line.append(f"{mean(_by_task(figures, row, cells, 'cross_entropy')):.3f}" if has_loss else "")
        if against:
            line.append(_difference(by_task["accuracy"], _by_task(figures, against, cells, "accuracy"), row != against))
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines)


def _numbers(draws: Sequence[int]) -> str:
    least, most = min(draws), max(draws)
    return f"{least if least == most else f'{least} to {most}'} draw{'s' if most > 1 else ''}"


def _by_task(figures: Figures, row: str, cells: Sequence[tuple[str, str]], score: str) -> list[float]:
    tasks = sorted({task for task, _ in cells})
    return [mean(figures[row][t][d][score] for t, d in cells if t == task) for task in tasks]


def _difference(values: Sequence[float], others: Sequence[float], is_other: bool) -> str:
    if not is_other:
        return ""
    differences = [one - other for one, other in zip(values, others, strict=True)]
    error = f" ± {stdev(differences) / len(differences) ** 0.5:.3f}" if len(differences) > 1 else ""
    return f"{mean(differences):+.3f}{error}"


def tables(split: str, ours: Sequence[str], setfit: Sequence[str], *, against: str) -> str:
    """Our rows on all that they were computed on, and all rows on what SetFit was, one table for each of its rows."""
    figures: Figures = kept().get(split, {})
    found = [row for row in ours if row in figures]
    made = [table(figures, found, against=against if against in found else None)] if found else []
    made += [table(figures, [*found, row], against=row) for row in setfit if found and row in figures]
    return "\n\n".join(part for part in made if part)


def beside(split: str, setfit: str = "SetFit", *, least: int = 1) -> str:
    """All rows on the tasks that SetFit has so many draws of, less SetFit."""
    figures: Figures = kept()[split]
    tasks = [task for task, draws in figures[setfit].items() if len(draws) >= least]
    rows = [row for row in figures if not row.startswith(setfit)]
    some = {row: {task: figures[row][task] for task in tasks if task in figures[row]} for row in (*rows, setfit)}
    return table(some, [*rows, setfit], against=setfit)
