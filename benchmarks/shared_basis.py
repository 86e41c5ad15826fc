"""A zoo whose experts share one pair of bases (LoRA-SB, r² numbers a site) beside the zoo that ships, on validation.

    python benchmarks/shared_basis.py          # builds, trains and scores what is missing; some hours of one core
    python benchmarks/shared_basis.py --show   # the table again

Both have an expert for each task of the split `experts` and the same generators with the same settings. The zoo that
ships begins its experts at adapters for many tasks, which the other cannot; "start at zero" is what the same recipe as
the zoo's gives from a random frame. Figures go to benchmarks/results/shared_basis.json.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from score_unseen import TASKS, means, score_unseen

from loragen.adapters.products import distance
from loragen.bases.devices import choose_dtype
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.files import atomic_write
from loragen.generation import Pipeline
from loragen.generators.train import train
from loragen.tasks.task_set import TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo

RESULTS, RUNS = Path("benchmarks/results/shared_basis.json"), Path("runs/basis")
SHIPS, SHARED, PLAIN = "the zoo that ships", "shared bases", "start at zero"
ZOOS = {SHIPS: Path("zoo/minilm"), SHARED: RUNS / "zoo", PLAIN: RUNS / "plain"}
METHODS = ("mean", "topk", "ridge", "sg", "icm")
AS_PLAIN = ("name=plain", f"out={ZOOS[PLAIN]}", "frame=random", "recipe={steps: 60, learning_rate: 0.01}")


def make(kind: str) -> Zoo:
    """A zoo and its generators."""
    root = ZOOS[kind]
    if kind != SHIPS:
        with console.progress() as update:
            build_zoo(Path("configs/zoo/minilm-basis.yaml"), AS_PLAIN if kind == PLAIN else (), progress=update)
        for name in ("sg", "icm"):
            out = root / "generators" / name
            if not out.exists():
                with console.progress() as update:
                    train(Path(f"configs/train/{name}.yaml"), (f"zoo={root}", f"out={out}"), progress=update)
    return Zoo.open(root).select(splits={"experts"})


def measured(kind: str) -> dict[str, Any]:
    """Scores on validation, numbers of an expert, and how near icm comes to the experts that it knows."""
    zoo, encoder = make(kind), TextEncoder.load()
    tasks = TaskSet.from_yaml(TASKS).split("validation")
    pipelines = {name: Pipeline.open(name, zoo, encoder) for name in METHODS}
    rows = []
    with console.progress() as update:
        score_unseen(
            tasks,
            pipelines,
            zoo.load_base(dtype=choose_dtype("auto")),
            seeds=(0,),
            max_length=zoo.manifest.recipe.score_length,
            on_row=lambda row: (rows.append(row), update("adapters scored", len(rows), len(tasks) * len(METHODS))),
        )
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    folder = zoo.root / "generators" / "icm"
    return {
        "label text": {name: round(value, 4) for name, value in means(rows, "accuracy").items()},
        "kNN": {name: round(value, 4) for name, value in means(rows, "knn_accuracy").items()},
        "numbers of an expert": frame_of(zoo, adapters).size,
        "icm's error on experts": round(_error(zoo, pipelines["icm"]), 3),
        "icm's file, MB": round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20, 1),
    }


def _error(zoo: Zoo, icm: Pipeline) -> float:
    """Distance of what icm makes from the expert that is meant, by that of the mean of all; mean over the experts."""
    mean = Pipeline.open("mean", zoo, TextEncoder.load()).generate(Evidence("any"))[0].adapter
    errors = []
    for card in zoo:
        (made,) = icm.generate(Evidence(card.description))
        expert = zoo.adapter(card.id)
        errors.append(distance(made.adapter, expert) / distance(mean, expert))
    return float(torch.tensor(errors).mean())


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row a zoo; scores are label text / kNN."""
    lines = [
        f"| zoo | numbers of an expert | {' | '.join(METHODS)} | icm's error on experts | icm's file |",
        "|---" * (len(METHODS) + 4) + "|",
    ]
    for kind, own in results.items():
        scores = [f"{own['label text'][name]:.3f} / {own['kNN'][name]:.3f}" for name in METHODS]
        error, size = own["icm's error on experts"], own["icm's file, MB"]
        cells = [kind, f"{own['numbers of an expert']:,}", *scores, f"{error:.2f}", f"{size} MB"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kept() -> dict[str, dict[str, Any]]:
    """Figures of earlier runs."""
    found: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def main(wanted: Sequence[str] = tuple(ZOOS)) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true")
    if not parser.parse_args().show:
        for kind in wanted:
            if kind not in kept():
                found = kept() | {kind: measured(kind)}
                atomic_write(
                    RESULTS, json.dumps({name: found[name] for name in ZOOS if name in found}, indent=1) + "\n"
                )
    print(table(kept()))


if __name__ == "__main__":
    main()
