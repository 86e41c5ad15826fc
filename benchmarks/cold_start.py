"""Times commands as cold processes, and says where the time of `generate` goes.

    python benchmarks/cold_start.py

Prints medians of 5 runs after one that warms the disk cache; writes benchmarks/results/cold_start.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path("benchmarks/results/cold_start.json")
TASK = "Tell what a guest of a hotel asks the front desk for."
COMMANDS = {
    "python -c 'import torch'": ["-c", "import torch"],
    "loragen --help": ["-m", "loragen", "--help"],
    "loragen zoo search": ["-m", "loragen", "zoo", "search", TASK],
    "loragen generate --generator topk": ["-m", "loragen", "generate", TASK, "--generator", "topk", "--force"],
    "loragen generate": ["-m", "loragen", "generate", TASK, "--force"],
}
STAGES = f"""
import time
start = time.perf_counter()
def stage(name):
    global start
    now = time.perf_counter()
    print(f"{{name}}={{now - start:.2f}}")
    start = now
import torch
stage("import torch")
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import ENCODER, Pipeline
from loragen.zoo.zoo import Zoo, default_zoo
stage("import loragen")
zoo = Zoo.open(default_zoo())
stage("read the cards")
encoder = TextEncoder.load(ENCODER)
stage("hash the encoder's weights")
pipeline = Pipeline.open("sg", zoo, encoder)
stage("load the generator and check it against the zoo")
condition = Conditioner(encoder).condition(Evidence({TASK!r}))
stage("load MiniLM, embed the description")
(generation,) = pipeline.generator.generate(condition, rng=torch.Generator())
stage("generate")
"""


def seconds(arguments: list[str], folder: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in COMMANDS.items():
            seconds(arguments, folder)
            runs = [seconds(arguments, folder) for _ in range(5)]
            results[name] = {"median": round(statistics.median(runs), 2), "max": round(max(runs), 2)}
            print(f"{name}: median {results[name]['median']} s, slowest {results[name]['max']} s")  # type: ignore[index]
        staged = subprocess.run(
            [sys.executable, "-c", STAGES], cwd=folder, check=True, capture_output=True, text=True
        ).stdout.split("\n")
    results["stages of generate"] = dict(line.split("=") for line in staged if line)
    print("\n".join(f"  {name}: {value} s" for name, value in results["stages of generate"].items()))  # type: ignore[attr-defined]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
