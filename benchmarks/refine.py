"""A few steps on a few examples, from a generated adapter with its rows clipped or free, and from the default start.

    python benchmarks/refine.py           # what is not kept yet, on the validation tasks
    python benchmarks/refine.py --show    # the table again, from the figures kept

Sixteen examples of a task's train file are drawn, of at least two labels, for all rows the same, and twenty steps are
made on all of them. Figures go to benchmarks/results/refine.json, draw by draw: an interrupted run goes on where it
was.
"""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean

import torch
from fewshot import ORACLES, Bench
from score_unseen import TASKS, labelled

from loragen.adapters.adapter import Lora
from loragen.bases.tokenised import TaskData
from loragen.cli import console
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.workspace import shuffled
from loragen.files import atomic_write
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, prepare_examples
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/refine.json")
EXAMPLES, STEPS, DRAWS, TEXTS = 16, 20, 3, 100
LOSS = 0.005
"""A task that loses more accuracy than this counts as lost."""
GENERATED = "generated"
ROWS: Mapping[str, tuple[str, float | None]] = {
    "random A, B = 0, fitted": ("random", None),
    "generated, fitted": ("sg", None),
    "generated, fitted, rows clipped at 2": ("sg", 2.0),
}
"""Row → where it begins and at which multiple rows are clipped."""


@dataclass(frozen=True, eq=False)
class Refining:
    """The bench of `fewshot.py`, with fewer examples and steps."""

    bench: Bench

    @cached_property
    def _tests(self) -> dict[str, TaskData]:
        return {}

    def accuracy(self, task: Task, adapter: Lora | None) -> float:
        """Label-text accuracy on the first test texts in random order."""
        if task.id not in self._tests:
            length = self.bench.zoo.manifest.recipe.score_length
            self._tests[task.id] = self.bench.base.prepare(shuffled(task), max_length=length).first(TEXTS)
        return labelled(self.bench.base.score(self._tests[task.id], adapter)).accuracy

    def fitted(self, task: Task, row: str, draw: int) -> Lora:
        """The adapter of a row on one draw."""
        begun, clip = ROWS[row]
        recipe = FewShotRecipe(steps=STEPS, clip_rows=clip)
        adapter = self.bench.begin(begun, task)
        assert adapter is not None
        data = prepare_examples(self._examples(task, draw), self.bench.base, max_length=recipe.max_length)
        return fit_examples(adapter, data, self.bench.base, recipe)

    def _examples(self, task: Task, draw: int) -> Examples:
        train, rng = task.load_train(), torch.Generator().manual_seed(draw)
        while True:
            some = train.subset(torch.randperm(len(train), generator=rng)[:EXAMPLES])
            if len(set(some.labels or ())) > 1:
                return some


def missing(kept: Mapping[str, Mapping[str, float]], tasks: list[str]) -> Iterator[tuple[str, str, int]]:
    """Rows, tasks and draws that are still to do, one draw of all tasks first; base and generator need no draws."""
    for draw in range(DRAWS):
        for task in tasks:
            for row in (*(("base", GENERATED) if draw == 0 else ()), *ROWS):
                if f"{task}/{draw}" not in kept.get(row, {}):
                    yield row, task, draw


def complete(kept: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """The figures of the draws that all rows have of all tasks."""
    tasks = list(_by_task(kept["base"]))
    drawn = [n for n in range(DRAWS) if all(f"{task}/{n}" in kept.get(row, {}) for row in ROWS for task in tasks)]
    keys = {f"{task}/{n}" for task in tasks for n in drawn}
    return {row: {key: value for key, value in figures.items() if key in keys} for row, figures in kept.items()}


def table(kept: Mapping[str, Mapping[str, float]]) -> str:
    """Means over the tasks, with how many lose against the adapter as it was generated, as Markdown."""
    by_task = {row: _by_task(figures) for row, figures in complete(kept).items()}
    if not by_task[GENERATED]:
        return "No draw is whole yet: run this again without --show."
    lines = ["| adapter | accuracy | above generated | tasks that lose | most that one loses |", "|---" * 5 + "|"]
    for row in ("base", GENERATED, *ROWS):
        gains = [by_task[row][task] - by_task[GENERATED][task] for task in by_task[GENERATED]]
        lost = sum(gain < -LOSS for gain in gains)
        cells = f"{mean(by_task[row].values()):.3f} | {mean(gains):+.3f} | {lost} of {len(gains)} | {-min(gains):.3f}"
        lines.append(f"| {row} | {cells if row != GENERATED else cells.split(' | ')[0] + ' | | |'} |")
    return "\n".join(lines)


def _by_task(figures: Mapping[str, float]) -> dict[str, float]:
    tasks = dict.fromkeys(key.partition("/")[0] for key in figures)
    return {task: mean(value for key, value in figures.items() if key.partition("/")[0] == task) for task in tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if not parser.parse_args().show:
        zoo = Zoo.open()
        refining = Refining(Bench(zoo, TextEncoder.load(), zoo.load_base(), Zoo.open(ORACLES)))
        tasks = {task.id: task for task in TaskSet.from_yaml(TASKS).split("validation")}
        to_do = list(missing(kept, list(tasks)))
        with console.progress() as update:
            for done, (row, name, draw) in enumerate(to_do):
                update("draws", done, len(to_do))
                if row in ROWS:
                    adapter: Lora | None = refining.fitted(tasks[name], row, draw)
                else:
                    adapter = refining.bench.begin("sg" if row == GENERATED else row, tasks[name])
                accuracy = round(refining.accuracy(tasks[name], adapter), 4)
                kept.setdefault(row, {})[f"{name}/{draw}"] = accuracy
                atomic_write(RESULTS, json.dumps(kept, indent=1) + "\n")
            update("draws", len(to_do), len(to_do))
    print(table(kept))


if __name__ == "__main__":
    main()
