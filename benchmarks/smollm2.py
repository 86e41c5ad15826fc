"""A language model, from words to weights: SmolLM2-135M-Instruct on held-out tasks, with every rival and control.

    python benchmarks/smollm2.py                         # all that is missing, in order; goes on where it was
    python benchmarks/smollm2.py --step cells --part 0/2 # one step; cells can be shared by processes
    python benchmarks/smollm2.py --show                  # the tables again, from the figures kept

Wants the base (loragen base get smollm2-135m-instruct) and the public tasks in data/tasks. Steps, with what they take
on one thread: tasks (half a minute), zoo (five hours), told (an hour: one LoRA for all tasks whose prompts tell the
task), generators (five hours), oracles (two hours), cells (five hours). The first four make what ships.

Held-out tasks: of rules that no expert knows (test_rule), of families that none knows (test_family), and of neither
(test_both); the first 40 test texts of each in random order. "in the zoo" are ten of the experts' own tasks. Exact
match: the likeliest answer, token by token, is the wanted one to its end. Accuracy: the wanted answer is the likeliest
of the possible ones, where these are up to six. Figures go to benchmarks/results/smollm2, the tables to
benchmarks/smollm2.md.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import shape_more
import shape_tasks
import torch
from smollm2_cells import (
    BASE,
    MULTI,
    MULTI_TOLD,
    ORACLE,
    RIVAL,
    ROWS,
    RUNS,
    TASKS,
    TRAINED,
    ZOO,
    Bench,
    cells,
    facts,
    scored,
)
from smollm2_tables import PAGE, RESULTS, kept, page

from loragen.cli import console
from loragen.errors import ConfigError
from loragen.evaluation.workspace import task_rng
from loragen.files import atomic_write
from loragen.generators.train import train
from loragen.recipes.expert import Start
from loragen.recipes.multitask import train_multitask
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_start import adapter_of
from loragen.zoo.zoo import Zoo

CONFIGS = Path("configs")
HELD_OUT = ("validation", "test_rule", "test_family", "test_both")
KNOWN, KNOWN_TASKS = "in the zoo", 10
KNOWN_ROWS = (BASE, MULTI, MULTI_TOLD, "nearest", *TRAINED, ORACLE)
ROWS_OF = {KNOWN: KNOWN_ROWS, "validation": tuple(row for row in ROWS if row != ORACLE)}
"""Rows of splits that do not have all; oracles are trained for the test tasks alone."""


def make_tasks() -> None:
    """The texts of the tasks."""
    tasks, out = Path("data/tasks"), Path("data/shapes")
    if not any(out.glob("*.jsonl")):
        shape_tasks.write(tasks, out)
    if not (out / f"{shape_more.SPLIT}.yaml").exists():
        shape_more.write(tasks, out, shape_more.NUMBER)


def make_zoo(name: str = "smollm2") -> None:
    """The experts, or the oracles."""
    with console.progress() as update:
        build_zoo(CONFIGS / f"zoo/{name}.yaml", progress=update)


def make_generators() -> None:
    """All generators that are trained."""
    for name in TRAINED:
        if not (ZOO / "generators" / name).exists():
            with console.progress() as update:
                train(CONFIGS / f"train/smollm2-{name}.yaml", progress=update)


def make_told() -> None:
    """One LoRA for all experts' tasks whose prompts tell the task, of as many steps as the one that is not told."""
    if RIVAL.exists():
        return
    config, zoo = ZooConfig.from_yaml(CONFIGS / "zoo/smollm2.yaml"), Zoo.open(ZOO)
    base, tasks = zoo.load_base(), TaskSet.from_yaml(TASKS).split("experts")
    rng = torch.Generator().manual_seed(config.recipe.seed)
    start = Start.random(base.sites(config.recipe.target_modules), config.recipe.r, rng=rng)
    with console.progress() as update:
        trained, history = train_multitask(
            tasks,
            base,
            start,
            config.recipe,
            config.multitask,
            train_a=True,
            instructed=True,
            checkpoints=RUNS / ".told.partial",
            on_step=lambda step: update("steps, told the task", step, config.multitask.steps),
        )
    adapter_of(trained, base).save(RIVAL, extra_files={"losses.json": json.dumps(history)})


def make_cells(part: str, rows: tuple[str, ...], splits: tuple[str, ...]) -> None:
    """Scores of every row and control; a line a cell."""
    number, processes = map(int, part.split("/"))
    torch.set_num_threads(1)
    bench, path = Bench.open(), RESULTS / f"cells-{number}.jsonl"
    RESULTS.mkdir(parents=True, exist_ok=True)
    others, todo = bench.tasks.split("experts"), list(_judged(bench, splits))[number::processes]
    with console.progress() as update:
        for at, (split, task) in enumerate(todo):
            update("tasks", at, len(todo))
            known, own = {_key(line) for line in kept()}, bench.forgetting()
            wanted = tuple(row for row in rows if row in ROWS_OF.get(split, ROWS))
            for cell in cells(task, others if split != KNOWN else (), wanted):
                names = facts(task, split, cell)
                if _key(names) not in known:
                    line = json.dumps(names | scored(own, cell, task))
                    with path.open("a", encoding="utf-8") as file:
                        file.write(line + "\n")


def _key(line: dict[str, Any]) -> tuple[object, ...]:
    return tuple(line[name] for name in ("task", "split", "row", "control", "seed"))


def _judged(bench: Bench, splits: tuple[str, ...]) -> Iterator[tuple[str, Task]]:
    for split in splits:
        if split != KNOWN:
            yield from ((split, task) for task in bench.tasks.split(split))
            continue
        experts = [task for task in bench.tasks.split("experts") if task.id in bench.zoo.ids]
        order = torch.randperm(len(experts), generator=task_rng(experts[0], KNOWN))[:KNOWN_TASKS].tolist()
        yield from ((KNOWN, experts[at]) for at in order)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    splits = (*HELD_OUT, KNOWN)
    parser.add_argument("--step", choices=("tasks", "zoo", "told", "generators", "oracles", "cells"))
    parser.add_argument("--part", default="0/1", help="of several processes for the cells: number/processes")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS, metavar="ROW")
    parser.add_argument("--splits", nargs="*", choices=splits, default=splits, metavar="SPLIT")
    parser.add_argument("--show", action="store_true", help="make the tables from the figures kept")
    options = parser.parse_args()
    steps: dict[str, Callable[[], None]] = {
        "tasks": make_tasks,
        "zoo": make_zoo,
        "told": make_told,
        "generators": make_generators,
        "oracles": lambda: make_zoo("smollm2-oracles"),
        "cells": lambda: make_cells(options.part, tuple(options.rows), tuple(options.splits)),
    }
    try:
        for name, step in steps.items():
            if not options.show and options.step in (None, name):
                step()
    except ConfigError as error:
        console.say_error(str(error))
        return 2
    if options.show or options.step in (None, "cells"):
        atomic_write(PAGE, page())
        print(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
