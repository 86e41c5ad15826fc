"""What a few labelled examples are worth on the validation tasks, fitted from a generated adapter and from its rivals.

    python benchmarks/fewshot.py [--zoo zoo/minilm] [--only ROW …]   # what is not yet in the table
    python benchmarks/fewshot.py --show                              # the table again, from the figures kept

A row is where the fit begins and how it is done (`loragen.recipes.few_shot`). Eight examples of each class are drawn
from a task's train file, for all rows the same; scores are those of the first 200 texts of the test file in random
order. Figures go to benchmarks/results/fewshot.json, task by task: an interrupted run goes on where it was.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from score_unseen import MAIN, TASKS, labelled, recovered_gain

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.workspace import shuffled
from loragen.generation import Pipeline
from loragen.recipes.expert import Start
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, prepare_examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/fewshot.json")
ORACLES = Path("benchmarks/oracles")
SHOTS = 8
TEXTS = 200
BASE, ORACLE = "base", "oracle"


@dataclass(frozen=True)
class Row:
    """Where a fit begins, and how it is done."""

    begun: str
    changes: Mapping[str, Any] | None = field(default_factory=dict)
    """To the default recipe; `None` does not fit at all."""


ROWS = {
    BASE: Row(BASE, None),
    "multi-task LoRA": Row("multitask", None),
    "topk": Row("topk", None),
    "multi-task LoRA, fitted": Row("multitask"),
    "topk, fitted": Row("topk"),
    "sg, fitted": Row("sg"),
    "random A, B = 0, fitted in 60 steps": Row("random", {"steps": 60}),
    "multi-task LoRA, fitted in 60 steps": Row("multitask", {"steps": 60}),
    "topk, fitted in 60 steps": Row("topk", {"steps": 60}),
    "sg, fitted in 60 steps": Row("sg", {"steps": 60}),
    "topk, fitted at twice the rate": Row("topk", {"learning_rate": 0.02}),
    "multi-task LoRA, fitted at twice the rate": Row("multitask", {"learning_rate": 0.02}),
    "topk, fitted with contrast": Row("topk", {"contrast_weight": 1.0}),
    ORACLE: Row(ORACLE, None),
}


@dataclass(frozen=True)
class Bench:
    """What fits begin at, and what they are judged on."""

    zoo: Zoo
    encoder: TextEncoder
    base: Base
    oracles: Zoo

    def begin(self, name: str, task: Task) -> Lora | None:
        """The adapter that a row begins at; `None` is the bare base."""
        known: dict[str, Callable[[], Lora | None]] = {
            BASE: lambda: None,
            "multitask": self.zoo.multitask,
            ORACLE: lambda: self.oracles.adapter(task.id),
            "random": self._random,
        }
        if name in known:
            return known[name]()
        (generation,) = self._pipelines[name].generate(Evidence(task.description), seed=0)
        return generation.adapter

    @cached_property
    def _pipelines(self) -> dict[str, Pipeline]:
        return {name: Pipeline.open(name, self.zoo, self.encoder) for name in ("topk", "sg")}

    def _random(self) -> Lora:
        recipe = self.zoo.manifest.recipe
        start = Start.random(self.base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))
        return Lora.from_factors(start.lora_A, start.lora_B, base_model_name_or_path=self.zoo.manifest.base)

    def judge(self, row: Row, task: Task) -> dict[str, float]:
        """Scores of a row on a task."""
        adapter = self.begin(row.begun, task)
        if row.changes is not None:
            assert adapter is not None
            recipe = FewShotRecipe(**row.changes)
            examples = task.load_train().few(SHOTS, rng=torch.Generator().manual_seed(0))
            data = prepare_examples(examples, self.base, max_length=recipe.max_length)
            adapter = fit_examples(adapter, data, self.base, recipe)
        length = self.zoo.manifest.recipe.score_length
        test = self.base.prepare(shuffled(task), max_length=length).first(TEXTS)
        scores = labelled(self.base.score(test, adapter))
        return {"accuracy": scores.accuracy, "knn_accuracy": scores.knn_accuracy}


def kept() -> dict[str, dict[str, dict[str, float]]]:
    """Row → task → score by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table() -> str:
    """The rows that are complete, as Markdown."""
    rows = {name: row for name, row in kept().items() if len(row) == len(kept()[BASE])}
    means = {
        name: {score: sum(task[score] for task in row.values()) / len(row) for score in MAIN}
        for name, row in rows.items()
    }
    lines = ["| adapter | label text | recovered gain | kNN | recovered gain |", "|---" * 5 + "|"]
    for name in (name for name in ROWS if name in means):
        cells = []
        for score, value in means[name].items():
            gain = recovered_gain(value, means[BASE][score], means[ORACLE][score])
            cells += [f"{value:.3f}", f"{gain:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(one: str, other: str) -> str:
    """Mean over the tasks of one row less another, with its standard error, by both scores."""
    rows = kept()
    parts = []
    for score in MAIN:
        values = [rows[one][task][score] - rows[other][task][score] for task in rows[BASE]]
        parts.append(f"{score} {mean(values):+.3f} (standard error {stdev(values) / len(values) ** 0.5:.3f})")
    return f"{one}, less {other}: {', '.join(parts)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--only", nargs="*", choices=ROWS, metavar="ROW")
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    arguments = parser.parse_args()
    if arguments.show:
        print(table())
        for name in ("topk, fitted", "sg, fitted"):
            print(differences(name, "multi-task LoRA, fitted"))
        return
    zoo = Zoo.open(arguments.zoo)
    bench = Bench(zoo, TextEncoder.load(), zoo.load_base(), Zoo.open(ORACLES))
    tasks = TaskSet.from_yaml(TASKS).split("validation")
    with console.progress() as update:
        for name in arguments.only or ROWS:
            for done, task in enumerate(tasks):
                update(name, done, len(tasks))
                figures = kept()
                if task.id in figures.get(name, {}):
                    continue
                scores = bench.judge(ROWS[name], task)
                figures.setdefault(name, {})[task.id] = {score: round(value, 4) for score, value in scores.items()}
                RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
            update(name, len(tasks), len(tasks))
    print(table())


if __name__ == "__main__":
    main()
