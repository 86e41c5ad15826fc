"""The strongest rivals of a generator: one LoRA for all experts' tasks, with and without the description in sight.

    python benchmarks/rivals.py [--only NAME …]

Trains them with several budgets, scores each on the 13 validation tasks, and keeps the figures in
benchmarks/results/rivals.json; adapters lie in runs/rivals. An interrupted training goes on where it was.
"""

import argparse
import json
from pathlib import Path

import torch

from loragen import console
from loragen.adapter import Adapter
from loragen.backbone import Backbone, choose_dtype
from loragen.evaluation.scoring import score_task
from loragen.experts import MultitaskRecipe, Start, TaskData, train_multitask
from loragen.tasks import TaskSet
from loragen.zoo import Zoo

RESULTS = Path("benchmarks/results/rivals.json")
OUT = Path("runs/rivals")
# name: whether the description stands in front, steps, learning rate
BUDGETS = {
    "instructed, 2000 steps": (True, 2000, 2e-3),
    "multi-task, 1000 steps": (False, 1000, 2e-3),
    "multi-task, 2000 steps, lr 0.005": (False, 2000, 5e-3),
    "instructed, 1000 steps": (True, 1000, 2e-3),
}
SHIPPED = "multi-task, 2000 steps (shipped)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--only", nargs="*", choices=[SHIPPED, *BUDGETS])
    arguments = parser.parse_args()
    zoo, tasks = Zoo.open(arguments.zoo), TaskSet.from_yaml(Path("configs/tasks/local.yaml"))
    backbone = Backbone.load(zoo.manifest.base, dtype=choose_dtype("auto"))
    recipe = zoo.manifest.recipe
    for name in arguments.only or [SHIPPED, *BUDGETS]:
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        if name in results:
            continue
        instructed = False
        if name == SHIPPED:
            adapter = zoo.multitask()
        else:
            instructed, steps, learning_rate = BUDGETS[name]
            folder = OUT / name.replace(",", "").replace(" ", "-")
            start = Start.random(
                backbone.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(recipe.seed)
            )
            with console.progress() as update:
                trained, _ = train_multitask(
                    tasks.split("experts"),
                    backbone,
                    start,
                    recipe,
                    MultitaskRecipe(steps=steps, learning_rate=learning_rate),
                    train_a=True,
                    instructed=instructed,
                    checkpoints=folder.with_name(f".{folder.name}.partial"),
                    on_step=lambda step, name=name, steps=steps: update(name, min(step, steps), steps),
                )
            adapter = Adapter.from_factors(
                trained.lora_A,
                trained.lora_B,
                base_model_name_or_path=zoo.manifest.base,
                task_type="FEATURE_EXTRACTION",
            )
            adapter.save(folder)
        scores = []
        for task in tasks.split("validation"):
            data = TaskData.of(
                task,
                task.load_test(),
                backbone,
                max_length=recipe.score_length,
                instruction=task.description if instructed else None,
            )
            scores.append(score_task(backbone, adapter, data))
        results[name] = {
            score: round(sum(getattr(s, score) for s in scores) / len(scores), 4)
            for score in ("accuracy", "knn_accuracy")
        }
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {results[name]}", flush=True)


if __name__ == "__main__":
    main()
