"""Chooses SG-LoRA's settings on the 13 validation tasks, beside merges with the same K and temperature.

    python benchmarks/sg.py [--zoo runs/minilm-1] [--only NAME …]

It was run on the first edition of the zoo (configs/zoo/minilm-1.yaml). Each variant changes configs/train/sg.yaml as
stated, beginning from K 4 without dropout and hardly any weight decay. Figures go to benchmarks/results/sg.json;
variants that stand there already are not run again.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from score_unseen import MAIN, TASKS, means, score_unseen

from loragen.bases.devices import choose_dtype
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.base import Generator
from loragen.generators.baselines import TopK
from loragen.generators.sg.fit import SGTrainConfig, fit_sg
from loragen.tasks.task_set import TaskSet
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/sg.json")

MERGES = {f"topk: K {k}, τ {t}": (k, t) for k, t in [(4, 0.1), (4, 0.05), (2, 0.1), (8, 0.1), (16, 0.05)]}
BEGINNING = ["sg.top_k=4", "sg.dropout=0", "weight_decay=0.01"]
VARIANTS: dict[str, list[str]] = {
    "beginning": [],
    "prior mean instead of a draw": ["sg.prior_scale=0"],
    "direct decoder": ["sg.decoder=direct"],
    "direct decoder, prior mean": ["sg.decoder=direct", "sg.prior_scale=0"],
    "own expert in its condition": ["sg.leave_one_out=false"],
    "no expert dropout": ["sg.expert_dropout=0"],
    "λ 0.1": ["sg.kl_weight=0.1"],
    "λ 10": ["sg.kl_weight=10"],
    "K 8": ["sg.top_k=8"],
    "K 16": ["sg.top_k=16"],
    "τ 0.05": ["sg.temperature=0.05"],
    "weight decay 1, dropout .3": ["weight_decay=1.0", "sg.dropout=0.3"],
    "K 8, weight decay 1, dropout .3": ["sg.top_k=8", "weight_decay=1.0", "sg.dropout=0.3"],
    "K 8, weight decay 1, dropout .5": ["sg.top_k=8", "weight_decay=1.0", "sg.dropout=0.5"],
    "K 8, weight decay 1, dropout .5, λ 10": ["sg.top_k=8", "weight_decay=1.0", "sg.dropout=0.5", "sg.kl_weight=10"],
    "direct, K 8, weight decay 1, dropout .3": [
        "sg.decoder=direct",
        "sg.top_k=8",
        "weight_decay=1.0",
        "sg.dropout=0.3",
    ],
    "no projection, hidden 64": ["sg.components=null", "sg.hidden_size=64", "epochs=10"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("runs/minilm-1"))
    parser.add_argument("--only", nargs="*", help="variants to run")
    arguments = parser.parse_args()
    zoo = Zoo.open(arguments.zoo)
    experts, encoder = zoo.select(splits={"experts"}), TextEncoder.load()
    library = ExpertIndex.of(experts, encoder)
    tasks = TaskSet.from_yaml(TASKS).split("validation")
    base = zoo.load_base(dtype=choose_dtype("auto"))
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.only or [*MERGES, *VARIANTS]:
        if name in results:
            continue
        begun = time.monotonic()
        facts: dict[str, Any] = {}
        generator: Generator
        if name in MERGES:
            generator = TopK(library, *MERGES[name])
        else:
            config = SGTrainConfig.from_yaml(
                Path("configs/train/sg.yaml"), [f"zoo={zoo.root}", *BEGINNING, *VARIANTS[name]]
            )
            generator, history = fit_sg(config, experts, encoder)
            tail = history[-100:]
            facts = {key: round(sum(row[key] for row in tail) / len(tail), 4) for key in tail[0]}
            facts["training seconds"] = round(time.monotonic() - begun, 1)
        pipeline = Pipeline(name, zoo, encoder, generator)
        length = zoo.manifest.recipe.score_length
        rows = score_unseen(tasks, {name: pipeline}, base, seeds=(0,), max_length=length)
        scores = {score: round(means(rows, score)[name], 4) for score in (*MAIN, "cross_entropy")}
        results[name] = scores | facts
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}: {results[name]}", flush=True)


if __name__ == "__main__":
    main()
