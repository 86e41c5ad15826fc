"""Times commands as cold processes, `generate` on its way without torch beside the one with it, and where time goes.

    python benchmarks/cold_start.py [--runs 5]

Each round starts every command once, so that a change of the machine's load meets all of them; the first round warms
the disk cache and does not count. Prints medians: seconds that passed, and seconds of a processor (user and system),
which tell more on a busy machine. Writes benchmarks/results/cold_start.json.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path("benchmarks/results/cold_start.json")
TARGET = 1.5
"""Seconds that `generate` should take at most."""
TASK = "Tell what a guest of a hotel asks the front desk for."
GENERATE = ["-m", "loragen", "generate", TASK, "--force"]
LEAN, TORCH, ONE = (
    "loragen generate (without torch)",
    "loragen generate (LORAGEN_LEAN=0)",
    "loragen generate (LORAGEN_LEAN=0 OMP_NUM_THREADS=1)",
)
"""The last is the fairer rival on a busy machine, where the threads of torch and FAISS wait for one another."""
COMMANDS = {
    "python -c 'import torch'": ["-c", "import torch"],
    "python -c 'import numpy'": ["-c", "import numpy"],
    "loragen --help": ["-m", "loragen", "--help"],
    "loragen zoo search": ["-m", "loragen", "zoo", "search", TASK],
    "loragen generate --generator topk": [*GENERATE, "--generator", "topk"],
    LEAN: GENERATE,
    TORCH: GENERATE,
    ONE: GENERATE,
}
ENVIRONMENTS = {TORCH: {"LORAGEN_LEAN": "0"}, ONE: {"LORAGEN_LEAN": "0", "OMP_NUM_THREADS": "1"}}
STAGES = """
import time
start = time.process_time()
def stage(name):
    global start
    now = time.process_time()
    print(f"{name}={now - start:.3f}")
    start = now
"""
LEAN_STAGES = f"""{STAGES}
import loragen.cli.app, loragen.cli.console
stage("import the command line")
import numpy
stage("import numpy")
from loragen.lean import generate, judge
from loragen.lean.choose import ENCODER
from loragen.lean.zoo import default_root
stage("import the rest")
encoder = generate.LeanEncoder.load(ENCODER)
stage("hash the encoder's weights")
zoo = generate.LeanZoo.open(default_root())
stage("read the cards")
zoo.fingerprint
stage("hash the experts")
sg = generate.LeanSG.load(zoo.root / "generators" / "sg")
stage("read the generator")
vector = encoder.encode([{TASK!r}])[0]
stage("embed the description")
adapters = sg.generate(sg.neighbours(vector), seed=0, samples=1)
stage("generate")
judge.LeanJudge.of(zoo, encoder, {TASK!r}, (), fallback=True).outlook(adapters[0], sg.neighbours(vector))
stage("judge")
"""
TORCH_STAGES = f"""{STAGES}
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


def timed(name: str, folder: str) -> tuple[float, float]:
    """Seconds that a command takes, and those of a processor."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *COMMANDS[name]],
        cwd=folder,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "LORAGEN_LEAN": "1"} | ENVIRONMENTS.get(name, {}),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, spent


def stages(script: str) -> dict[str, float]:
    """Processor seconds by stage."""
    # One thread, as on the way itself: on a busy machine several wait for one another.
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    told = subprocess.run([sys.executable, "-c", script], env=env, check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, _, value in (line.partition("=") for line in told.splitlines() if line)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="rounds that count")
    runs = parser.parse_args().runs
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs + 1):
            for name in COMMANDS:
                one = timed(name, folder)
                taken[name] += [one] if number else []
    results: dict[str, object] = {}
    medians = {
        name: tuple(statistics.median(column) for column in zip(*rows, strict=True)) for name, rows in taken.items()
    }
    for name, (passed, spent) in medians.items():
        most = max(row[0] for row in taken[name])
        results[name] = {"median": round(passed, 2), "max": round(most, 2), "processor": round(spent, 2)}
        print(f"{name}: median {passed:.2f} s, slowest {most:.2f} s, processor {spent:.2f} s")
    for rival in (TORCH, ONE):
        passed, spent = (medians[rival][place] / medians[LEAN][place] for place in (0, 1))
        results[f"times as fast as {rival}"] = {"passed": round(passed, 2), "processor": round(spent, 2)}
        print(f"without torch {passed:.1f} times as fast as {rival}, {spent:.1f} times by processor")
    print(f"target {TARGET} s: {'met' if medians[LEAN][0] <= TARGET else 'missed'}")
    for name, script in (("without torch", LEAN_STAGES), ("with torch", TORCH_STAGES)):
        found = stages(script)
        results[f"stages {name}"] = found
        largest = sorted(found, key=lambda stage: -found[stage])[:3]
        print(f"stages {name}, processor seconds; most go to: {', '.join(largest)}")
        print("\n".join(f"  {stage}: {value:.3f} s" for stage, value in found.items()))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
