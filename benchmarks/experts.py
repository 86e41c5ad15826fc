"""Compares ways to train experts: contrast weight and learning rate first, then frame and start, and the ceiling.

That is how the first edition of the zoo was settled (configs/zoo/minilm-1.yaml; "shipped" means it): it has to be
built for `start` and `ceiling`. Everything is judged on the 13 validation tasks: by the experts trained on them, and
by what merges and SG-LoRA make of the other experts there. Builds lie under `runs/` and are resumable. Figures go to
benchmarks/results/experts.json; those that stand there are kept.

    python benchmarks/experts.py recipe      # contrast weight and learning rate, from random A and zero B
    python benchmarks/experts.py start       # random or multi-task A, zero or multi-task B
    python benchmarks/experts.py ceiling     # learning rate and steps of the experts that generators are measured by
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from score_unseen import MAIN, TASKS, means, score_unseen

from loragen.bases.devices import choose_dtype
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.base import Generator
from loragen.generators.baselines import Mean, Nearest, TopK
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.tasks.task_set import TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.start import read_start, write_start
from loragen.zoo.zoo import Zoo

CONFIG = Path("configs/zoo/minilm-1.yaml")
RESULTS = Path("benchmarks/results/experts.json")
RUNS = Path("runs/experts")
SHIPPED = "multi-task A, multi-task B (shipped)"
FIRST = Path("runs/minilm-1")

RECIPES = {
    f"contrast {weight}, lr {rate}": {"recipe.contrast_weight": weight, "recipe.learning_rate": rate}
    for weight, rate in [(0.3, 0.01), (0.0, 0.01), (1.0, 0.01)]
}
CEILINGS = {
    "lr 0.01, 60 steps": {"recipe.learning_rate": 0.01},
    "lr 0.02, 60 steps": {"recipe.learning_rate": 0.02},
}
# From zero an expert has farther to go than from the multi-task adapter: each start has the rate that suits it.
STARTS = {
    "random A, zero B": {"frame": "random", "start": "zero", "recipe.learning_rate": 0.01},
    "multi-task A, zero B": {"frame": "multitask", "start": "zero", "recipe.learning_rate": 0.01},
}


def say(stage: str, done: int, total: int) -> None:
    if stage == "experts":
        print(f"{time.strftime('%H:%M:%S')} {done}/{total}", file=sys.stderr, flush=True)


def folder(variant: str) -> Path:
    return RUNS / variant.replace(" ", "-").replace(",", "").lower()


def built(variant: str, overrides: dict[str, Any], only: tuple[str, ...]) -> Zoo:
    out = folder(variant)
    settings = {"out": str(out), "only": json.dumps(only), "name": out.name} | overrides
    return build_zoo(ZooConfig.from_yaml(CONFIG, [f"{key}={value}" for key, value in settings.items()]), progress=say)


def own_scores(zoo: Zoo) -> dict[str, float]:
    """Mean scores of the validation tasks' own experts, and of the bare base."""
    cards = [card for card in zoo if card.split == "validation"]
    return {
        f"{moment} {name}": round(sum(getattr(getattr(card, moment), name) for card in cards) / len(cards), 4)
        for moment in ("before", "after")
        for name in ("accuracy", "macro_f1", "cross_entropy", "knn_accuracy")
    }


def compare_ceilings(validation: tuple[str, ...], results: dict[str, Any]) -> None:
    shipped = FIRST
    results.setdefault("ceiling", {})["lr 0.005, 60 steps (shipped)"] = own_scores(Zoo.open(shipped))
    for variant, overrides in CEILINGS.items():
        if variant in results["ceiling"]:
            continue
        zoo = built(variant, {"start_of": str(shipped)} | overrides, validation)
        results["ceiling"][variant] = own_scores(zoo)
        save(results)


def subset(tasks: TaskSet) -> tuple[str, ...]:
    """Every sixth expert, and every third of the families of validation tasks."""
    families = {task.family for task in tasks.split("validation")}
    experts = tasks.split("experts")
    return tuple(t.id for i, t in enumerate(experts) if i % 6 == 0 or (t.family in families and i % 3 == 0))


def transfer_scores(zoo: Zoo, tasks: TaskSet) -> dict[str, dict[str, float]]:
    """What merges and SG-LoRA make of a zoo's experts on the validation tasks, beside the experts trained on these."""
    encoder, has_own = TextEncoder.load(), any(card.split == "validation" for card in zoo)
    library = ExpertIndex.of(zoo.select(splits={"experts"}), encoder)
    trained, _ = fit_sg(SGTrainConfig.from_yaml(Path("configs/train/sg.yaml")), library.zoo, encoder)
    generators: tuple[Generator, ...] = (Mean(library), Nearest(library), TopK(library), trained)
    rows = score_unseen(
        tasks.split("validation"),
        {generator.name: Pipeline(generator.name, zoo, encoder, generator) for generator in generators},
        zoo.load_base(dtype=choose_dtype("auto")),
        seeds=(0, 1, 2),
        max_length=zoo.manifest.recipe.score_length,
        fixed={"base": lambda _task: None} | ({"expert's own": lambda task: zoo.adapter(task.id)} if has_own else {}),
    )
    return {score: {method: round(value, 4) for method, value in means(rows, score).items()} for score in MAIN}


def compare_recipes(validation: tuple[str, ...], results: dict[str, Any]) -> None:
    for variant, overrides in RECIPES.items():
        zoo = built(variant, {"frame": "random", "start": "zero"} | overrides, validation)
        results.setdefault("recipe", {})[variant] = own_scores(zoo)
        save(results)


def compare_starts(tasks: TaskSet, validation: tuple[str, ...], results: dict[str, Any]) -> None:
    shipped, few = Zoo.open(FIRST), subset(tasks)
    others = {expert for expert in shipped.ids if expert not in {*few, *validation}}
    scores = results.setdefault("start", {})
    scores["experts"] = len(few)
    if SHIPPED not in scores:
        scores[SHIPPED] = transfer_scores(shipped.select(without=others), tasks)
        save(results)
    for variant, overrides in STARTS.items():
        if variant in scores:
            continue
        if overrides["frame"] == "multitask" and not folder(variant).exists():
            write_start(folder(variant), read_start(shipped.root).from_zero())
        # What generators make of the experts decides; the tasks' own experts are trained for the first variant alone.
        only = few if overrides["frame"] == "multitask" else few + validation
        scores[variant] = transfer_scores(built(variant, overrides | {"score": "false"}, only), tasks)
        save(results)


def save(results: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("recipe", "start", "ceiling"))
    stage = parser.parse_args().stage
    tasks = TaskSet.from_yaml(TASKS)
    validation = tuple(task.id for task in tasks.split("validation"))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if stage == "recipe":
        compare_recipes(validation, results)
    elif stage == "ceiling":
        compare_ceilings(validation, results)
    else:
        compare_starts(tasks, validation, results)
    print(json.dumps(results[stage], indent=1))


if __name__ == "__main__":
    main()
