"""The strongest rivals of a generator: one LoRA for all experts' tasks, with and without the description in sight.

    python benchmarks/rivals.py [--only NAME …]
    python benchmarks/rivals.py --show             # the table again, from the figures kept

Trains them with several budgets, scores each on the 13 validation tasks, and keeps the figures in
benchmarks/results/rivals.json; adapters lie in runs/rivals. An interrupted training goes on where it was.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from score_unseen import TASKS, labelled, mean_scores

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.cli import console
from loragen.recipes.expert import Start
from loragen.recipes.multitask import MultitaskRecipe, train_multitask
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/rivals.json")
OUT = Path("runs/rivals")


@dataclass(frozen=True)
class Budget:
    """How one LoRA for all tasks is trained."""

    steps: int
    learning_rate: float = 2e-3
    instructed: bool = False
    """With the description in front of every text and label, in training and in scoring."""
    after: str = ""
    """Goes on from where another budget ended, not from random A and zero B."""
    r: int = 4
    target_modules: tuple[str, ...] = ("query", "value")


ALL_LINEAR = ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
BUDGETS = {
    "multi-task, 2000 steps": Budget(2000),
    "multi-task, 1000 steps": Budget(1000),
    "multi-task, 1000 steps, lr 0.005": Budget(1000, 5e-3),
    "multi-task, 2000 steps, lr 0.005": Budget(2000, 5e-3),
    "instructed, 500 steps after 2000": Budget(500, instructed=True, after="multi-task, 2000 steps"),
    "instructed, 1000 steps after 2000": Budget(1000, instructed=True, after="multi-task, 2000 steps"),
    "instructed, 1000 steps, lr 0.005": Budget(1000, 5e-3, instructed=True),
    "instructed, 500 steps after the shipped": Budget(500, instructed=True, after="multi-task, 1000 steps, lr 0.005"),
    "multi-task, 1000 steps, lr 0.005, r 8": Budget(1000, 5e-3, r=8),
    "multi-task, 1000 steps, lr 0.005, all linear": Budget(1000, 5e-3, target_modules=ALL_LINEAR),
    "multi-task, 1000 steps, all linear": Budget(1000, target_modules=ALL_LINEAR),
    "multi-task, 1000 steps, lr 0.005, r 1": Budget(1000, 5e-3, r=1),
}


def trained(name: str, budget: Budget, zoo: Zoo, tasks: TaskSet, base: Base) -> Lora:
    """The adapter of a budget, from its folder where an earlier run left it there."""
    folder = OUT / name.replace(",", "").replace(" ", "-")
    if folder.exists():
        return Lora.load(folder)
    first = trained(budget.after, BUDGETS[budget.after], zoo, tasks, base) if budget.after else None
    recipe = zoo.manifest.recipe.model_copy(update={"r": budget.r, "target_modules": budget.target_modules})
    rng = torch.Generator().manual_seed(recipe.seed)
    random = Start.random(base.sites(recipe.target_modules), recipe.r, rng=rng)
    with console.progress() as update:
        end, _ = train_multitask(
            tasks.split("experts"),
            base,
            random if first is None else Start.at(first),
            # Another seed for what goes on from another, so that it sees other batches.
            recipe.model_copy(update={"seed": recipe.seed + (first is not None)}),
            MultitaskRecipe(steps=budget.steps, learning_rate=budget.learning_rate),
            train_a=True,
            instructed=budget.instructed,
            checkpoints=folder.with_name(f".{folder.name}.partial"),
            on_step=lambda step: update(name, min(step, budget.steps), budget.steps),
        )
    adapter = Lora.from_factors(
        end.lora_A, end.lora_B, base_model_name_or_path=zoo.manifest.base, task_type="FEATURE_EXTRACTION"
    )
    adapter.save(folder)
    return adapter


def kept() -> dict[str, dict[str, float]]:
    """The figures there are."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table() -> str:
    """The figures kept as Markdown, in the order in which budgets are listed."""
    lines = ["| one LoRA for all experts' tasks | label text | kNN |", "|---|---|---|"]
    figures = kept()
    for name in BUDGETS:
        if name in figures:
            lines.append(f"| {name} | {figures[name]['accuracy']:.3f} | {figures[name]['knn_accuracy']:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--only", nargs="*", choices=BUDGETS, metavar="NAME")
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    arguments = parser.parse_args()
    if arguments.show:
        print(table())
        return
    zoo, tasks = Zoo.open(arguments.zoo), TaskSet.from_yaml(TASKS)
    base = zoo.load_base(dtype=choose_dtype("auto"))
    for name in arguments.only or BUDGETS:
        if name in kept():
            continue
        budget = BUDGETS[name]
        adapter = trained(name, budget, zoo, tasks, base)
        scores = []
        for task in tasks.split("validation"):
            instruction = task.description if budget.instructed else None
            data = base.prepare(task.load_test(), max_length=zoo.manifest.recipe.score_length, instruction=instruction)
            scores.append(labelled(base.score(data, adapter)))
        figures = mean_scores(scores)
        RESULTS.write_text(json.dumps(kept() | {name: figures}, indent=1) + "\n")
        print(f"{name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
