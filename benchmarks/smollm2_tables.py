"""The tables of `smollm2.py`, as Markdown, from the figures that it keeps."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from smollm2_cells import (
    BASE,
    CONTROLLED,
    COSTED,
    MEANS,
    MULTI,
    MULTI_TOLD,
    ORACLE,
    ROWS,
    SEEDS,
    SHOWN,
    TEXTS,
    TOLD,
)

from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT
from loragen.evaluation.markdown import span
from loragen.evaluation.statistics import Table, difference_interval, gain_interval, mean_interval

RESULTS, PAGE = Path("benchmarks/results/smollm2"), Path("benchmarks/smollm2.md")
GROUPS = {
    "all held-out tasks": ("test_rule", "test_family", "test_both"),
    "rules that no expert knows, known families": ("test_rule",),
    "known rules, families that no expert knows": ("test_family",),
    "neither known": ("test_both",),
    "validation tasks, which chose epochs and settings": ("validation",),
}
TARGETS = [
    *(((name, RIGHT), (f"mean output of {name}", RIGHT), "+.03 or more") for name in ("hyper", "told")),
    (("hyper", RIGHT), (MULTI, RIGHT), "above 0"),
    *(((name, RIGHT), (name, control), "+.05 or more") for name in ("hyper", "told") for control in (NONSENSE, OTHER)),
    *(((name, RIGHT), (MULTI_TOLD, RIGHT), "not below 0") for name in ("hyper", "told")),
]
"""A row under a control, another one, and how far the first was to be above it."""
SMALL = (BASE, TOLD, SHOWN, "topk", MULTI, MULTI_TOLD, "hyper", "told", ORACLE)
"""Rows of the table in the docs."""
SCORES = {"exact": "exact match", "bits": "bits per byte", "accuracy": "accuracy", "calibrated": "calibrated"}
HEAD = """\
# SmolLM2-135M-Instruct: adapters from a description, on tasks of many shapes

Made by `python benchmarks/smollm2.py --show` from `benchmarks/results/smollm2`; how it is measured stands in the head
of that script. Intervals are central 95 % over tasks and seeds. Recovered gain: 0 is the bare base, 1 the oracle, an
expert trained on the task itself. `hyper` makes weights from the description, and its prompts tell nothing. `told` is
a hypernetwork whose prompts tell the task as well: it begins at the one LoRA for all tasks that is told the task. What
its controls put in the description's place, prompts tell too.
"""


def kept() -> list[dict[str, Any]]:
    """All cells there are."""
    files = sorted(RESULTS.glob("cells-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


class Figures:
    """The cells of some splits by task, row, control and score."""

    def __init__(self, lines: Sequence[dict[str, Any]], splits: Sequence[str]) -> None:
        self._of: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        self._tasks: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        for line in lines:
            if line["split"] in splits:
                for score in (*SCORES, "tokens", "seconds"):
                    if score in line:
                        self._of[line["task"], line["row"], line["control"], score].append(line[score])
                        self._tasks[line["row"], line["control"], score].add(line["task"])

    def tasks(self, rows: Sequence[str], score: str = "exact", control: str = RIGHT) -> list[str]:
        """The tasks that all of some rows have."""
        return sorted(set.intersection(*(self._tasks[row, control, score] for row in rows)))

    def table(self, row: str, tasks: Sequence[str], score: str = "exact", control: str = RIGHT) -> Table:
        """Scores (tasks, seeds), higher being better."""
        values = [self._of[task, row, control, score] for task in tasks]
        found = np.array([one[: min(map(len, values))] for one in values])
        return -found if score == "bits" else found


def main_table(lines: Sequence[dict[str, Any]], title: str, splits: Sequence[str]) -> str:
    """A row a method: scores, recovered gain, and the difference to one LoRA for all tasks."""
    figures = Figures(lines, splits)
    rows = [row for row in ROWS if len(figures.tasks([row])) == len(figures.tasks([BASE])) > 0]
    if BASE not in rows:
        return ""
    tasks, few = figures.tasks(rows), figures.tasks(rows, "accuracy")
    head = [f"{title} ({len(tasks)})", *SCORES.values(), "recovered, exact", "recovered, bits", f"exact, above {MULTI}"]
    found = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in rows:
        exact = figures.table(row, tasks)
        cells = [row, span(mean_interval(exact, rng=_rng())), f"{-figures.table(row, tasks, 'bits').mean():.3f}"]
        cells += [f"{figures.table(row, few, score).mean():.3f}" if few else "" for score in ("accuracy", "calibrated")]
        for score in ("exact", "bits"):
            ends = [figures.table(end, tasks, score) for end in (BASE, ORACLE)] if ORACLE in rows else []
            gain = gain_interval(figures.table(row, tasks, score), *ends, rng=_rng()) if ends else None
            cells.append(span(gain, digits=2) if gain and row not in (BASE, ORACLE) else "")
        cells.append(_above(exact, figures.table(MULTI, tasks)) if MULTI in rows and row != MULTI else "")
        found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found)


def small_table(lines: Sequence[dict[str, Any]]) -> str:
    """A few rows over all held-out tasks, for the docs."""
    figures = Figures(lines, GROUPS["all held-out tasks"])
    found = ["| what answers | exact match | bits per byte | tokens read a text |", "|---|---|---|---|"]
    for row in SMALL:
        tasks = figures.tasks([row])
        exact, bits, tokens = (figures.table(row, tasks, score) for score in ("exact", "bits", "tokens"))
        cells = (span(mean_interval(exact, rng=_rng())), f"{-bits.mean():.2f}", f"{tokens.mean():.0f}")
        found.append(f"| {' | '.join((row, *cells))} |")
    return "\n".join(found)


def condition_table(lines: Sequence[dict[str, Any]], splits: Sequence[str]) -> str:
    """What the right description is worth: against nonsense, another task's, paraphrases, and no description at all."""
    figures = Figures(lines, splits)
    head = ["exact match", "right", "less nonsense", "less another task's", "less paraphrases", "less its mean output"]
    found = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    again = [f"{PARAPHRASE} {number}" for number in (1, 2, 3)]
    for row in CONTROLLED:
        tasks = figures.tasks([row])
        if not tasks or any(figures.tasks([row], control=control) != tasks for control in (NONSENSE, OTHER)):
            continue
        right = figures.table(row, tasks)
        has_again = all(figures.tasks([row], control=control) == tasks for control in again)
        paraphrased = [figures.table(row, tasks, control=control) for control in again if has_again]
        against = [figures.table(row, tasks, control=NONSENSE), figures.table(row, tasks, control=OTHER)]
        cells = [row, f"{right.mean():.3f}", *(_above(right, other) for other in against)]
        cells.append(_above(right, np.mean(paraphrased, axis=0)) if paraphrased else "")
        mean_row = {name: title for title, name in MEANS.items()}.get(row, "")
        has_mean = mean_row and figures.tasks([row, mean_row]) == tasks
        cells.append(_above(right, figures.table(mean_row, tasks)) if has_mean else "")
        found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found)


def target_table(lines: Sequence[dict[str, Any]], splits: Sequence[str]) -> str:
    """What was aimed at beforehand, in exact match, and what came of it."""
    figures = Figures(lines, splits)
    found = ["| difference in exact match | aimed at | found |", "|---|---|---|"]
    for (row, control), (other, its), aim in TARGETS:
        tasks = figures.tasks([row], control=control)
        if tasks and figures.tasks([other], control=its) == tasks:
            difference = _above(figures.table(row, tasks, control=control), figures.table(other, tasks, control=its))
            told = f"{row} less {other}" if row != other else f"{row}: the right description less {its}"
            found.append(f"| {told} | {aim} | {difference} |")
    return "\n".join(found) if len(found) > 2 else ""


def cost_table(lines: Sequence[dict[str, Any]], splits: Sequence[str]) -> str:
    """What a prompt costs: tokens and processor seconds of a text."""
    figures = Figures(lines, splits)
    found = ["| what the model reads | tokens a text | seconds a text |", "|---|---|---|"]
    for row in COSTED:
        if tasks := figures.tasks([row]):
            cost = [figures.table(row, tasks, score).mean() for score in ("tokens", "seconds")]
            found.append(f"| {row} | {cost[0]:.0f} | {cost[1]:.3f} |")
    return "\n".join(found)


def page() -> str:
    """All tables."""
    lines, parts = kept(), [HEAD]
    parts.append(f"{TEXTS} texts a task; {len(SEEDS)} seeds where something is drawn.")
    for title, splits in GROUPS.items():
        if table := main_table(lines, title, splits):
            parts += [f"## {title[0].upper()}{title[1:]}", table]
    held_out = GROUPS["all held-out tasks"]
    parts += ["## What was aimed at", target_table(lines, held_out)]
    parts += ["On the validation tasks:", target_table(lines, ("validation",))]
    parts += ["## Does the description matter?", condition_table(lines, held_out)]
    parts += ["## Experts given back, on ten of their own tasks", main_table(lines, "in the zoo", ("in the zoo",))]
    parts += ["## What a prompt costs", cost_table(lines, held_out)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _above(one: Table, other: Table) -> str:
    return span(difference_interval(one, other, rng=_rng()), signed=True)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)
