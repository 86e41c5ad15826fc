"""ICM-LoRA: what it makes of known tasks beside its controls, and its settings on the validation tasks.

    python benchmarks/icm.py known [--generator zoo/minilm/generators/icm] [--limit 100] [--every 3]
    python benchmarks/icm.py unseen [--limit 100]
    python benchmarks/icm.py variants [--only NAME …]
    python benchmarks/icm.py storage
    python benchmarks/icm.py show

`known` regenerates the adapter of every expert from its task's condition and scores it on the task's test file (on
its first --limit texts), beside: the expert; the mean and the nearest of its snapshots; a snapshot with noise as far
away as the regenerated adapter is; another task's condition; one constant condition; the prior's mean against a draw;
and less evidence. `unseen` does the same for the 13 validation tasks, which no expert of its library has seen, and
`variants` trains ICM-LoRA with other settings and scores it on them; its figures were made with `--zoo
runs/minilm-1`, the first edition of the zoo (configs/zoo/minilm-1.yaml). `storage` sets the size of the generator
against that of the adapters it stands for. Figures go to benchmarks/results/icm_*.json; what is there is not computed
again.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from score_unseen import MAIN, TASKS, few_of, labelled, mean_scores, recovered_gain

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.cli import console
from loragen.conditions.condition import Condition, Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.icm.episodes import ICMTrainConfig
from loragen.generators.icm.fit import fit_icm
from loragen.generators.icm.model import ICM
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

KNOWN = Path("benchmarks/results/icm_known.json")
UNSEEN = Path("benchmarks/results/icm_unseen.json")
STORAGE = Path("benchmarks/results/icm_storage.json")
VARIANTS_FILE = Path("benchmarks/results/icm_variants.json")
SHOTS = 16
SHORT = ["epochs=4"]
VARIANTS: dict[str, list[str]] = {
    "as shipped, 400 steps": [],
    "published learning rate": ["learning_rate=0.0002"],
    "all coordinates of the frame": ["icm.components=null"],
    "raw factors": ["icm.codec=raw"],
    "descriptions alone": ["icm.evidence=[description]"],
    "task vectors through the tasks' own adapters": ["through=own_adapter"],
    "no evidence dropped": ["evidence_dropout=0"],
    "KL weight 0": ["icm.kl_weight=0"],
    "KL weight 0.05": ["icm.kl_weight=0.05"],
}


def few_examples(task: Task) -> Examples:
    """A few labelled training examples of a task."""
    return few_of(task, SHOTS, seed=1)


def unlabelled(task: Task) -> Examples:
    """The same texts without labels."""
    return few_examples(task).unlabelled()


# --- known tasks ------------------------------------------------------------------------------------------------------


def known_rows(
    generator: ICM, zoo: Zoo, conditions: Mapping[str, Condition]
) -> dict[str, Callable[[str], Lora | None]]:
    """Row → expert → adapter (`None` is the bare base); for generators with `codec: frame`."""
    space = generator.space
    assert isinstance(space, Frame)
    ids = list(conditions)
    mean = generator.with_prior_scale(0.0)
    constant = Condition("", conditions[ids[0]].embedding, _average([c.task_vectors for c in conditions.values()]))
    follower = dict(zip(ids, ids[1:] + ids[:1], strict=True))

    mean_of_all = torch.stack([space.coordinates(zoo.adapter(e)) for e in generator.manifest.experts]).mean(0)

    def made(of: ICM, condition: Condition, seed: int = 0) -> Lora:
        return of.generate(condition, rng=torch.Generator().manual_seed(seed))[0].adapter

    def told(expert: str, *kinds: str) -> Condition:
        full = conditions[expert]
        return Condition(full.description, full.embedding, {k: v for k, v in full.task_vectors.items() if k in kinds})

    def snapshots(expert: str) -> torch.Tensor:
        return space.flatten(zoo.snapshots(expert))

    def at(point: torch.Tensor) -> Lora:
        return space.adapter(point, base=zoo.manifest.base)

    def nearest_snapshot(expert: str) -> Lora:
        target = space.coordinates(made(mean, conditions[expert]))
        points = snapshots(expert)
        return at(points[(points - target).square().sum(1).argmin()])

    def noisy(expert: str) -> Lora:
        own = space.coordinates(zoo.adapter(expert))
        distance = (space.coordinates(made(mean, conditions[expert])) - own).norm()
        noise = torch.randn(own.shape, generator=torch.Generator().manual_seed(ids.index(expert)))
        return at(own + noise * distance / noise.norm())

    return {
        "base": lambda _: None,
        "mean of all experts": lambda _: at(mean_of_all),
        "expert": zoo.adapter,
        "icm, all evidence, z = 0": lambda e: made(mean, conditions[e]),
        "icm, all evidence, a draw": lambda e: made(generator, conditions[e]),
        "icm, description alone, z = 0": lambda e: made(mean, told(e, "description")),
        "icm, 16 unlabelled texts alone, z = 0": lambda e: made(mean, told(e, "texts")),
        "icm, another task's condition": lambda e: made(mean, conditions[follower[e]]),
        "icm, one constant condition": lambda _: made(mean, constant),
        "mean of its snapshots": lambda e: at(snapshots(e).mean(0)),
        "nearest of its snapshots": nearest_snapshot,
        "expert + noise of icm's distance": noisy,
    }


def _average(vectors: Any) -> Any:
    return {kind: torch.stack([v[kind] for v in vectors]).mean(0) for kind in vectors[0]}


def run_known(arguments: argparse.Namespace) -> None:
    zoo, encoder, tasks = Zoo.open(arguments.zoo), TextEncoder.load(), TaskSet.from_yaml(arguments.tasks)
    generator = Pipeline.open(str(arguments.generator), zoo, encoder).generator
    assert isinstance(generator, ICM)
    known = arguments.what == "known"
    chosen = {e: tasks[e] for e in zoo.select(splits={"experts" if known else "validation"}).ids}
    kept = KNOWN if known else UNSEEN
    conditioner = Conditioner(encoder, generator.reading, generator.evidence)
    conditions = {
        e: conditioner.condition(Evidence(task.description, examples=few_examples(task))) for e, task in chosen.items()
    }
    base = zoo.load_base(dtype=choose_dtype("auto"))
    rows = known_rows(generator, zoo, conditions)
    results = kept_scores(kept) if kept.exists() else {}
    length = zoo.manifest.recipe.score_length
    data = {e: base.prepare(task.load_test(), max_length=length) for e, task in chosen.items()}
    data = {e: each.first(arguments.limit or len(each)) for e, each in data.items()}
    with console.progress() as update:
        for name, adapter_for in rows.items():
            if (arguments.only and name not in arguments.only) or name in results:
                continue
            scores = {}
            for done, expert in enumerate(list(chosen)[:: arguments.every], 1):
                with torch.inference_mode():
                    scored = labelled(base.score(data[expert], adapter_for(expert)))
                scores[expert] = mean_scores([scored])
                update(name, done, len(chosen) // arguments.every)
            results[name] = scores
            _write(kept, results)
    print(known_table(results))


def kept_scores(path: Path = KNOWN) -> dict[str, dict[str, dict[str, float]]]:
    """Row → expert → scores, as they were kept."""
    found: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text())
    return found


def known_table(results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """Means over the experts as Markdown."""
    lines = [
        "| adapter | tasks | label text | share kept | recovered gain | kNN | share kept | recovered gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, scores in results.items():
        cells = []
        for score in MAIN:
            # Some rows were computed for a part of the experts: base and expert are then taken on that part.
            value, base, own = (
                sum(results[row][expert][score] for expert in scores) / len(scores) for row in (name, "base", "expert")
            )
            cells += [f"{value:.3f}", f"{value / own:.3f}", f"{recovered_gain(value, base, own):.2f}"]
        lines.append(f"| {name} | {len(scores)} | {' | '.join(cells)} |")
    return "\n".join(lines)


# --- settings ---------------------------------------------------------------------------------------------------------


def run_variants(arguments: argparse.Namespace) -> None:
    zoo, encoder = Zoo.open(arguments.zoo), TextEncoder.load()
    experts, tasks = zoo.select(splits={"experts"}), TaskSet.from_yaml(arguments.tasks).split("validation")
    base = zoo.load_base(dtype=choose_dtype("auto"))
    results: dict[str, Any] = json.loads(VARIANTS_FILE.read_text()) if VARIANTS_FILE.exists() else {}
    for name in arguments.only or VARIANTS:
        if name in results:
            continue
        config = ICMTrainConfig.from_yaml(
            Path("configs/train/icm.yaml"), [f"zoo={zoo.root}", "folds=0", *SHORT, *VARIANTS[name]]
        )
        begun = time.monotonic()
        generator, history = fit_icm(config, experts, encoder)
        facts = {"training seconds": round(time.monotonic() - begun, 1), "parameters": _parameters(generator)}
        tail = history[-50:]
        facts |= {key: round(sum(row[key] for row in tail) / len(tail), 4) for key in tail[0]}
        results[name] = unseen_scores(generator.with_prior_scale(0.0), zoo, tasks, base, encoder) | facts
        _write(VARIANTS_FILE, results)
        print(f"{name}: {results[name]}", flush=True)


def unseen_scores(
    generator: ICM, zoo: Zoo, tasks: Sequence[Task], base: Base, encoder: TextEncoder
) -> dict[str, dict[str, float]]:
    """Mean scores by what the generator is told beside the description."""
    told: dict[str, Callable[[Task], Examples | None]] = {"description": lambda _: None}
    if len(generator.config.evidence) > 1:
        told |= {"16 texts": unlabelled, "16 labelled": few_examples}
    pipeline, found = Pipeline("icm", zoo, encoder, generator), {}
    for name, examples_of in told.items():
        scores = []
        for task in tasks:
            # An unseen task has no adapter of its own: the paper's condition is there for comparison alone.
            own = zoo.adapter(task.id) if generator.reading.through == "own_adapter" else None
            evidence = Evidence(task.description, examples=examples_of(task), own_adapter=own)
            (made,) = pipeline.generate(evidence, seed=0)
            data = base.prepare(task.load_test(), max_length=zoo.manifest.recipe.score_length)
            scores.append(labelled(base.score(data, made.adapter)))
        found[name] = mean_scores(scores)
    return found


# --- storage ----------------------------------------------------------------------------------------------------------


def run_storage(arguments: argparse.Namespace) -> None:
    """Bytes on disk: the generator, one adapter a task, and all that was kept of the experts' training."""
    zoo = Zoo.open(arguments.zoo).select(splits={"experts"})
    folder = arguments.generator
    generator = sum((folder / name).stat().st_size for name in ("generator.safetensors", "frame.safetensors"))
    adapters = sum((zoo.folder(e) / "adapter_model.safetensors").stat().st_size for e in zoo.ids)
    kept = len(next(iter(zoo.snapshots(zoo.ids[0]).values())))
    facts = {
        "generator": generator,
        "one adapter a task": adapters,
        "adapters and snapshots": adapters * (1 + kept),  # as adapters of their own, which snapshots could be
        "generator / one adapter a task": round(generator / adapters, 3),
        "generator / adapters and snapshots": round(generator / (adapters * (1 + kept)), 3),
    }
    _write(STORAGE, facts)
    print(json.dumps(facts, indent=1))


def _parameters(generator: ICM) -> int:
    return sum(p.numel() for p in generator.network.parameters())


def _write(path: Path, results: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("known", "unseen", "variants", "storage", "show"))
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--tasks", type=Path, default=TASKS)
    parser.add_argument("--generator", type=Path, default=Path("zoo/minilm/generators/icm"))
    parser.add_argument("--limit", type=int, default=100, help="test texts a known task; 0 takes all")
    parser.add_argument("--every", type=int, default=1, help="take every so manieth expert")
    parser.add_argument("--only", nargs="*", help="rows or variants to compute")
    arguments = parser.parse_args()
    if arguments.what == "show":
        print(known_table(kept_scores()), known_table(kept_scores(UNSEEN)), sep="\n\n")
        return
    {"known": run_known, "unseen": run_known, "variants": run_variants, "storage": run_storage}[arguments.what](
        arguments
    )


if __name__ == "__main__":
    main()
