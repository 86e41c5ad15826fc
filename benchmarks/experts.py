"""Compares ways to train experts: the contrast weight and learning rate first, then frame and start.

Everything is judged on the 13 validation tasks: by the experts trained on them, and by what merges of the other experts
do there. Builds lie under `runs/` and are resumable; the figures go to `benchmarks/results/experts.json`.

    python benchmarks/experts.py recipe      # contrast weight and learning rate, from random A and zero B
    python benchmarks/experts.py start       # random or multi-task A, zero or multi-task B
"""

import argparse
import json
import sys
import time
from pathlib import Path

from loragen.foundry import Progress, ZooConfig, build
from loragen.tasks import TaskSet
from loragen.zoo import Zoo

CONFIG = Path("configs/zoo/minilm.yaml")
RESULTS = Path("benchmarks/results/experts.json")
RUNS = Path("runs/experts")

RECIPES = {
    f"contrast {weight}, lr {rate}": {"recipe.contrast_weight": weight, "recipe.learning_rate": rate}
    for weight, rate in [(0.3, 0.01), (0.0, 0.01), (1.0, 0.01), (0.3, 0.005)]
}
STARTS = {
    f"{frame} A, {start} B": {"frame": frame, "start": start}
    for frame in ("random", "multitask")
    for start in ("zero", "multitask")
}


def say(progress: Progress) -> None:
    if progress.stage == "multitask" and progress.done % 50:
        return
    what = progress.card.id if progress.card else ""
    print(
        f"{time.strftime('%H:%M:%S')} {progress.stage} {progress.done}/{progress.total} {what}",
        file=sys.stderr,
        flush=True,
    )


def built(variant: str, overrides: dict[str, object], only: tuple[str, ...]) -> Zoo:
    slug = variant.replace(" ", "-").replace(",", "")
    settings = {"out": str(RUNS / slug), "only": json.dumps(only), "name": slug} | overrides
    config = ZooConfig.from_yaml(CONFIG, [f"{key}={value}" for key, value in settings.items()])
    build(config, say)
    return Zoo.open(config.out)


def own_scores(zoo: Zoo) -> dict[str, float]:
    """Mean scores of the validation tasks' own experts, and of the bare base."""
    cards = [card for card in zoo if card.split == "validation"]
    return {
        f"{moment} {name}": round(sum(getattr(getattr(card, moment), name) for card in cards) / len(cards), 4)
        for moment in ("before", "after")
        for name in ("accuracy", "macro_f1", "cross_entropy", "knn_accuracy")
    }


def every_other(tasks: TaskSet) -> tuple[str, ...]:
    """A third of the experts, spread over the alphabet, with every relative of a validation task."""
    families = {task.family for task in tasks.split("validation")}
    experts = tasks.split("experts")
    return tuple(t.id for i, t in enumerate(experts) if i % 3 == 0 or (t.family in families and i % 2 == 0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("recipe", "start"))
    stage = parser.parse_args().stage
    tasks = TaskSet.from_yaml(Path("configs/tasks/local.yaml"))
    validation = tuple(task.id for task in tasks.split("validation"))
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if stage == "recipe":
        for variant, overrides in RECIPES.items():
            zoo = built(variant, {"frame": "random", "start": "zero"} | overrides, validation)
            results.setdefault("recipe", {})[variant] = own_scores(zoo)
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results[stage], indent=1))


if __name__ == "__main__":
    main()
