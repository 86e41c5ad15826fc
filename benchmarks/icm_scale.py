"""What ICM-LoRA costs: seconds and memory of training steps and of a generation, for the shipped zoo and for 8B shapes.

    python benchmarks/icm_scale.py [--only NAME …]

The 8B shape is Llama-3-8B's, query and value at rank 8: 3,407,872 values an adapter, task vectors of 4,096 numbers. Its
adapters are random, since time and memory do not depend on what they hold. Every case runs in a process of its own, so
that its peak memory is its own. Figures go to benchmarks/results/icm_scale.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from loragen.adapters.adapter import AdapterSpec, Site
from loragen.adapters.frame import Frame
from loragen.adapters.raw_factors import RawFactors
from loragen.conditions.condition import Condition
from loragen.conditions.task_vectors import Reading
from loragen.generators.icm.episodes import ICMData, ICMTrainConfig
from loragen.generators.icm.fit import ICMRun
from loragen.generators.icm.model import ICM, ICMConfig, ICMManifest
from loragen.generators.trained import rounded

RESULTS = Path("benchmarks/results/icm_scale.json")
EXPERTS, POINTS = 8, 2

MINILM = AdapterSpec(
    tuple(Site(f"encoder.layer.{n}.attention.self.{p}", 384, 384, 4) for n in range(6) for p in ("query", "value"))
)
LLAMA = AdapterSpec(
    tuple(
        Site(f"model.layers.{n}.self_attn.{p}", out, 4096, 8)
        for n in range(32)
        for p, out in (("q_proj", 4096), ("v_proj", 1024))
    )
)
# name: layout, size of a task vector, codec, components, batch size, steps
CASES = {
    "MiniLM, 100 directions of the frame": (MINILM, 384, "frame", 100, 32, 20),
    "MiniLM, all coordinates of the frame": (MINILM, 384, "frame", None, 32, 5),
    "MiniLM, raw factors": (MINILM, 384, "raw", None, 32, 5),
    "Llama-3-8B, 100 directions of the frame": (LLAMA, 4096, "frame", 100, 32, 5),
    "Llama-3-8B, raw factors": (LLAMA, 4096, "raw", None, 2, 2),
}


def measure(name: str) -> dict[str, float]:
    """Train a few steps and generate once."""
    spec, hidden, codec, components, batch_size, steps = CASES[name]
    rng = torch.Generator().manual_seed(0)
    space: Frame | RawFactors = RawFactors(spec)
    if codec == "frame":
        a = {s.name: torch.linalg.qr(torch.randn(s.in_features, s.r, generator=rng))[0].T for s in spec.sites}
        space = Frame(a, {s.name: s.out_features for s in spec.sites})
    experts = 101 if spec is MINILM else EXPERTS
    data = ICMData(
        torch.randn(experts, POINTS, space.size, generator=rng),
        space,
        {
            kind: tuple(torch.randn(32, hidden, generator=rng) for _ in range(experts))
            for kind in ("description", "texts", "examples")
        },
        Reading(model="random"),
        torch.nn.functional.normalize(torch.randn(experts, 384, generator=rng), dim=1),
    )
    config = ICMTrainConfig(
        generator="icm",
        zoo=Path("unused"),
        out=Path("unused"),
        encoder="unused",
        icm=ICMConfig(codec=codec, components=components),
        epochs=1,
        steps_per_epoch=steps,
        batch_size=batch_size,
        learning_rate=2e-4,
    )
    begun = time.monotonic()
    run = ICMRun.of(config, data, range(experts))
    prepared = time.monotonic()
    ends: list[float] = []
    run.fit(None, on_step=lambda _step: ends.append(time.monotonic()))
    facts = {
        "base": "b",
        "base_hash": "",
        "task_type": None,
        "zoo": "",
        "zoo_hash": "",
        "encoder": "",
        "encoder_hash": "",
    }
    manifest = ICMManifest(
        **facts,
        experts=tuple(map(str, range(experts))),
        versions={},
        reading=data.reading,
        config=config.icm,
        epochs=1,
    )
    generator = ICM(manifest, rounded(run.network), run.conditions, run.codec, space, data.embeddings)
    condition = Condition("", data.embeddings[0], data.task_vectors(0, shots=16))
    generating = time.monotonic()
    generator.generate(condition, rng=rng)
    return {
        "values an adapter": space.size,
        "parameters": sum(p.numel() for p in run.network.parameters()),
        "seconds to fit the codec and build": round(prepared - begun, 2),
        "batch": batch_size,
        "seconds a step": round((ends[-1] - ends[0]) / (len(ends) - 1), 3),
        "seconds a generation": round(time.monotonic() - generating, 3),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=CASES)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments.case)))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in arguments.only or CASES:
        done = subprocess.run([sys.executable, __file__, "--case", name], capture_output=True, text=True, check=True)
        results[name] = json.loads(done.stdout.splitlines()[-1])
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        print(f"{name}: {results[name]}", flush=True)


if __name__ == "__main__":
    main()
