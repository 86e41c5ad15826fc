"""What grows with a zoo, and how: zoos of 1, 10 and 100 thousand experts of MiniLM's size, each stage in a process.

    python benchmarks/big_zoos.py [--sizes 1000 10000 100000]    # goes on where it was interrupted
    python benchmarks/big_zoos.py --show                         # table and figure again, from the figures kept

Experts are synthetic: coordinates are mixtures of three experts of zoo/minilm and noise, embeddings are mixtures of
their descriptions' embeddings and noise, descriptions are theirs put together. So there are likes and unlikes as among
real ones, but nothing was learnt by them. Searches ask with descriptions of validation tasks, which no mixture holds.

Everything lies in runs/big_zoos, some 5 GB at 100,000. A zoo of up to 4,096 experts is searched exactly, and
one of up to 1,024 is read whole to train; larger ones are searched in lists and read by parts. Memory is the largest
resident memory of a stage's process, pages of files that it maps included, and beside it what is no page of a file. On
a busy machine CPU seconds say more than seconds; those of the waiting for a disk are not among them.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from big_zoo_stages import STAGES

ROOT = Path("runs/big_zoos")
RESULTS = Path("benchmarks/results/big_zoos.json")
SIZES = (1_000, 10_000, 100_000)
TARGETS = {
    "index": ("index_mb", 200.0, "MB"),
    "search": ("search_ms", 10.0, "ms"),
    "generate with topk": ("generate_s", 1.0, "s"),
    "generate with sg": ("generate_s", 1.0, "s"),
    "generate with ridge": ("generate_s", 1.0, "s"),
    "add": ("add_s", 2.0, "s"),
    "open": ("open_s", 5.0, "s"),
}
"""Stage → its figure, the most that it may be among 100,000 experts, and the unit."""


def memory() -> dict[str, float]:
    """MB of this process: the most that was resident, and what of it now is no page of a file."""
    status = Path("/proc/self/status").read_text() if Path("/proc/self/status").exists() else ""
    own = [int(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("RssAnon")]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"peak_mb": peak} | ({"own_mb": own[0]} if own else {})


def run_stage(stage: str, size: int) -> None:
    """Run a stage in this process, and keep its figures."""
    begun = time.process_time()
    found = STAGES[stage](ROOT / f"{size}" / "zoo", size)
    found |= {"cpu_s": time.process_time() - begun} | memory()
    kept = ROOT / f"{size}" / "stages" / f"{stage}.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.with_suffix(".new").write_text(json.dumps({name: round(value, 4) for name, value in found.items()}))
    kept.with_suffix(".new").replace(kept)


def run(sizes: list[int]) -> None:
    """Run the stages that are not done, each in a process of its own."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    for size in sizes:
        for stage in STAGES:
            kept = ROOT / f"{size}" / "stages" / f"{stage}.json"
            if not kept.exists():
                command = [sys.executable, __file__, "--stage", stage, "--sizes", str(size)]
                subprocess.run(command, env=environment, check=True)
            print(f"{size} {stage}: {kept.read_text()}", flush=True)


def kept() -> dict[str, Any]:
    """All figures so far, by size and stage."""
    found = {
        size: {stage: ROOT / size / "stages" / f"{stage}.json" for stage in STAGES}
        for size in sorted((folder.name for folder in ROOT.iterdir() if folder.name.isdigit()), key=int)
    }
    return {
        "processors": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: version(name) for name in ("loragen", "torch", "faiss-cpu")},
        "experts": {
            size: {stage: json.loads(file.read_text()) for stage, file in stages.items() if file.exists()}
            for size, stages in found.items()
        },
    }


def table(figures: dict[str, Any]) -> str:
    """The figures as Markdown, with the targets."""
    by_size = figures["experts"]
    lines = [f"| | {' | '.join(f'{int(size):,}' for size in by_size)} |", f"|---|{'---|' * len(by_size)}"]
    for stage in STAGES:
        names = dict.fromkeys(name for stages in by_size.values() for name in stages.get(stage, ()))
        for name in names:
            values = [stages.get(stage, {}).get(name) for stages in by_size.values()]
            told = " | ".join("" if value is None else f"{value:.4g}" for value in values)
            target = TARGETS.get(stage)
            aim = f" (at most {target[1]:g} {target[2]})" if target and target[0] == name else ""
            lines.append(f"| {stage}: {name}{aim} | {told} |")
    return "\n".join(lines)


def draw(figures: dict[str, Any], path: Path) -> None:
    """What grows with the zoo, and how."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels: dict[str, list[tuple[str, str, str]]] = {
        "open, s": [("open", "open_s", "zoo and index"), ("open", "fingerprint_s", "fingerprint")],
        "search, ms": [("search", "search_ms", "median"), ("search", "slowest_ms", "slowest")],
        "generate, s": [(f"generate with {name}", "generate_s", name) for name in ("topk", "sg", "ridge")],
        "add, s": [("add", "add_s", "median")],
        "fit, s": [
            ("train sg", "read_s", "sg: read"),
            ("train sg", "epoch_s", "sg: an epoch"),
            ("fit ridge", "fit_s", "ridge"),
        ],
        "memory, MB": [
            ("generate with topk", "peak_mb", "topk, with mapped files"),
            ("generate with topk", "own_mb", "topk, without"),
            ("train sg", "peak_mb", "train sg"),
        ],
    }
    by_size = {int(size): stages for size, stages in figures["experts"].items()}
    shape, axes = plt.subplots(2, 3, figsize=(11, 6), sharex=True, layout="constrained")
    for axis, (title, lines) in zip(axes.flat, panels.items(), strict=True):
        for stage, name, label in lines:
            points = [(size, stages[stage][name]) for size, stages in by_size.items() if name in stages.get(stage, {})]
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=label)
        axis.set(xscale="log", yscale="log", title=title)
        if axis.lines:
            axis.legend(fontsize=8)
    for axis in axes[1]:
        axis.set_xlabel("experts")
    shape.savefig(path, dpi=120)
    plt.close(shape)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--show", action="store_true", help="print the table and draw the figure of what is kept")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(arguments.stage, arguments.sizes[0])
        return
    if not arguments.show:
        run(arguments.sizes)
    is_full = arguments.show or arguments.sizes == list(SIZES)
    results = RESULTS if is_full else ROOT / RESULTS.name
    figures = json.loads(RESULTS.read_text()) if arguments.show else kept()
    if not arguments.show:
        results.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(figures))
    draw(figures, results.with_suffix(".png"))


if __name__ == "__main__":
    main()
