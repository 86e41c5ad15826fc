"""Times one training step of MiniLM with 32 texts: float32 against bfloat16, and whether padding to 16 pays.

    python benchmarks/precision.py

Prints the median of 7 steps at several lengths, and the first step of each shape, which pays for preparing kernels.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.bases.tokenised import TaskData
from loragen.recipes.expert import AdapterObjective, Start

RESULTS = Path("benchmarks/results/precision.json")
LENGTHS = (16, 32, 50, 52, 64)


def step_seconds(base: Base, length: int) -> list[float]:
    rng = torch.Generator().manual_seed(length)
    start = Start.random(base.sites(("query", "value")), 4, rng=rng)
    objective = AdapterObjective(base, start, train_a=False, contrast_weight=0.0)
    ids = torch.randint(1000, 20000, (32, length), generator=rng).tolist()
    batch = TaskData(tuple(ids), torch.zeros(32, dtype=torch.long), ([101, 2054, 102], [101, 2023, 102]))
    seconds = []
    for _ in range(8):
        begun = time.perf_counter()
        objective.loss(batch)["loss"].backward()
        seconds.append(time.perf_counter() - begun)
    return seconds


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results: dict[str, object] = {"auto chooses": str(choose_dtype("auto")).removeprefix("torch.")}
    for name in ("float32", "bfloat16"):
        base = LabelTextEncoder.load("all-MiniLM-L6-v2", dtype=choose_dtype(name))  # type: ignore[arg-type]
        for length in LENGTHS:
            first, *others = step_seconds(base, length)
            results[f"{name}, 32 x {length}"] = {
                "first": round(first, 3),
                "median": round(statistics.median(others), 3),
            }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
