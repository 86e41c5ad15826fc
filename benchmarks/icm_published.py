"""ICM-LoRA trained as its published script intends: what it gives back of adapters that it has seen.

    python benchmarks/icm_published.py             # eight experts, all variants: 12 to 20 minutes on one thread
    python benchmarks/icm_published.py --generator FOLDER       # ours beside them, by folder or name
    python benchmarks/icm_published.py --show      # the table, from the figures kept

The published script (Shao et al., IJCAI 2025, arXiv 2501.17635) is for one task at a time. Written anew from a
description of it, with the network of `loragen.generators.icm.model`, these are its choices:

- a checkpoint is its raw factors, with a z-score per tensor from that very checkpoint;
- the condition, the same for the whole run, is the mean of the last hidden states of 30 of the task's training texts,
  read through the task's own adapter;
- AdamW at 2e-4 on batches of 2, a cosine that ends half-way down, no clipping, KL weight 0.005;
- the loss compares (b, L) with (b, 1, L): broadcast, each sample is drawn to every sample of its batch;
- z is drawn from N(0, I), once, and what is decoded gets the means and deviations of an adapter trained on that task.

`per task` trains one such model a task. `all tasks, as written` feeds the same script with all experts at once;
`all tasks, loss repaired` compares each sample with itself, under the condition of its own task. Not as published: the
length of the training (there 50,000 steps a task), the number of checkpoints (there 49, here the expert and its
snapshots), batches cut across passes over the data, so that no checkpoint stands alone in one, texts drawn at random
(there the first 30), and AdamW's decay, which is torch's own, since there the optimiser is missing.

Each variant is told much of the very adapter that it gives back: the condition and the scale. `mean of all codes` is
told the scale alone; a variant has learnt of a task only what it gives beyond that. Ours reads the description and, if
it reads task vectors, the same 30 texts with their labels, through the bare base. `error` is the mean squared
difference of codes, z-scores, from the expert's: 1 where nothing is known.

It was run on the first edition of the zoo (configs/zoo/minilm-1.yaml), where the generator of ours lies as well.
Figures go to benchmarks/results/icm_published.json; methods that stand there already are not run again.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from score_unseen import MAIN, TASKS, few_of, labelled, recovered_gain
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.codec import Codec
from loragen.bases.base import Base
from loragen.bases.scores import Scores
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.icm.episodes import ICMData, ICMTrainConfig, read_experts
from loragen.generators.icm.model import ICMConfig, ICMNetwork
from loragen.generators.trained import Gaussian
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import SPLIT, Zoo

RESULTS = Path("benchmarks/results/icm_published.json")
CONTROL = "mean of all codes"
JUDGED = 8
"""Experts judged by default."""
TEXTS = 30
SEED = 2024
PUBLISHED = ICMConfig(codec="raw", scale="target", evidence=("texts",))


@dataclass(frozen=True)
class Variant:
    """What is fed to the script, and whether it is repaired."""

    per_task: bool
    repaired: bool
    """Each sample against itself, under the condition of its own task."""
    steps: int
    """Of one model."""


VARIANTS = {
    "per task": Variant(per_task=True, repaired=False, steps=400),
    "all tasks, as written": Variant(per_task=False, repaired=False, steps=2000),
    "all tasks, loss repaired": Variant(per_task=False, repaired=True, steps=2000),
}


def main() -> None:
    arguments = parsed()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if arguments.show:
        print(markdown(results))
        return
    zoo = Zoo.open(arguments.zoo)
    experts, encoder = zoo.select(splits={SPLIT}), TextEncoder.load()
    judged = arguments.tasks or drawn(experts)
    if any(set(kept["tasks"]) != set(judged) for kept in results.values()):
        raise SystemExit(f"{RESULTS} holds figures of other tasks; move it away, or name its tasks with --tasks.")
    bench = Bench.of(experts, judged, results)
    bench.add_references()
    if missing := [name for name in arguments.only if name not in results]:
        steps = dict(zip(VARIANTS, arguments.steps, strict=True))
        data = prepared(experts, encoder)
        if CONTROL not in results:
            bench.score(CONTROL, *mean_codes(data, experts, judged))
        for name in missing:
            adapters, facts = reconstruct(replace(VARIANTS[name], steps=steps[name]), data, experts, judged)
            bench.score(name, adapters, facts)
    for name in arguments.generator:
        if name not in results:
            pipeline = Pipeline.open(name, zoo, encoder)
            bench.score(name, generated(pipeline, bench.tasks, experts), size_of(pipeline.generator))
    print(markdown(results))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("runs/minilm-1"))
    parser.add_argument("--tasks", nargs="+", metavar="ID", help=f"experts to judge on; by default {JUDGED} at random")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="variants to run")
    parser.add_argument(
        "--steps",
        nargs=len(VARIANTS),
        type=int,
        metavar="N",
        default=[variant.steps for variant in VARIANTS.values()],
        help=f"of one model, for {'; '.join(VARIANTS)} (default: %(default)s)",
    )
    parser.add_argument("--generator", action="append", default=[], help="a generator of ours, by folder or name")
    parser.add_argument("--show", action="store_true", help="print the table of the figures kept")
    return parser.parse_args()


def drawn(experts: Zoo) -> list[str]:
    """The experts judged by default: the same ones every time."""
    order = torch.randperm(len(experts), generator=torch.Generator().manual_seed(SEED))
    return [experts.ids[at] for at in sorted(order[:JUDGED].tolist())]


def prepared(experts: Zoo, encoder: TextEncoder) -> ICMData:
    """Checkpoints of all experts as raw factors, and their texts read through their own adapters."""
    config = ICMTrainConfig(
        generator="icm",
        zoo=experts.root,
        encoder=encoder.name,
        out=Path(),
        icm=PUBLISHED,
        tasks=TASKS,
        through="own_adapter",
        pool=TEXTS,
        seed=SEED,
    )
    return read_experts(config, experts, encoder)


def reconstruct(
    variant: Variant, data: ICMData, experts: Zoo, judged: Sequence[str]
) -> tuple[dict[str, Lora], dict[str, Any]]:
    """Train, and give the judged experts' adapters back; with the facts of the training."""
    rows = {experts.ids.index(expert): expert for expert in judged}
    groups = [[row] for row in rows] if variant.per_task else [list(range(len(experts)))]
    adapters: dict[str, Lora] = {}
    runs: list[Run] = []
    errors: list[float] = []
    with console.progress() as update:

        def report(step: int) -> None:
            update("steps", len(runs) * variant.steps + step, len(groups) * variant.steps)

        for group in groups:
            codes = data.codes(group, data.codec(group, PUBLISHED), PUBLISHED)
            conditions = torch.stack([data.states["texts"][row].mean(0) for row in group])
            if not variant.repaired:
                conditions = conditions.mean(0).expand_as(conditions)
            runs.append(train(codes, conditions, variant, on_step=report))
            for at, row in enumerate(group):
                if row not in rows:
                    continue
                code = draw(runs[-1].network, conditions[at])
                adapters[rows[row]], error = rescaled(code, data, row)
                errors.append(error)
    seconds = sum(run.seconds for run in runs)
    return adapters, size_of(runs[0], models=len(runs)) | {
        "steps": variant.steps,
        "training seconds": round(seconds, 1),
        "seconds a step": round(seconds / (len(runs) * variant.steps), 4),
        "loss": round(sum(run.loss for run in runs) / len(runs), 4),
        "error": round(sum(errors) / len(errors), 4),
    }


def mean_codes(data: ICMData, experts: Zoo, judged: Sequence[str]) -> tuple[dict[str, Lora], dict[str, float]]:
    """The mean of all checkpoints' codes, at the scale of each judged expert."""
    group = range(len(experts))
    code = data.codes(group, data.codec(group, PUBLISHED), PUBLISHED).mean((0, 1))
    made = {expert: rescaled(code, data, experts.ids.index(expert)) for expert in judged}
    error = sum(error for _, error in made.values()) / len(made)
    return {expert: adapter for expert, (adapter, _) in made.items()}, {"error": round(error, 4)}


def rescaled(code: Tensor, data: ICMData, row: int) -> tuple[Lora, float]:
    """A code (L,) with the means and deviations of an expert, and how far it is from that expert's own code."""
    expert = data.samples[row, 0]
    own = Codec.per_tensor(expert, data.space.sizes)
    error = float((code - own.encode(expert)).square().mean())
    return data.space.adapter(own.decode(code), base=None), error


@dataclass(frozen=True)
class Run:
    """A trained model."""

    network: ICMNetwork
    seconds: float
    loss: float
    """Mean of the last 100 steps."""


def train(codes: Tensor, conditions: Tensor, variant: Variant, *, on_step: Callable[[int], None]) -> Run:
    """Train one model on the checkpoints of some tasks (tasks, points, L) under their conditions (tasks, h)."""
    begun = time.monotonic()
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    network = ICMNetwork(codes.shape[-1], conditions.shape[-1], PUBLISHED)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-4)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2 * variant.steps)
    losses = []
    for step, at in enumerate(pairs(codes.shape[:2].numel(), variant.steps, rng=rng), 1):
        x, condition = codes.flatten(0, 1)[at], conditions[at // codes.shape[1]]
        loss = published_loss(network, x, condition, repaired=variant.repaired, rng=rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cosine.step()
        losses.append(loss.item())
        on_step(step)
    tail = losses[-100:]
    return Run(network.eval(), time.monotonic() - begun, sum(tail) / len(tail))


def pairs(n: int, steps: int, *, rng: torch.Generator) -> Iterator[Tensor]:
    """Batches of two of ``n`` samples, cut from shuffled passes without end."""
    passes = torch.cat([torch.randperm(n, generator=rng) for _ in range(-(-2 * steps // n))])
    yield from passes[: 2 * steps].view(steps, 2)


def published_loss(
    network: ICMNetwork, x: Tensor, condition: Tensor, *, repaired: bool, rng: torch.Generator
) -> Tensor:
    """Mean of the squared errors + 0.005 · KL(q ‖ N(0, I)); unless repaired, of all pairs (b, b, L) of the batch."""
    posterior = network.posterior_of(x, condition)
    noise = torch.randn(posterior.mean.shape, generator=rng)
    decoded = network.decode(posterior.sample(noise), condition)
    errors = decoded - (x if repaired else x[:, None])
    return errors.square().mean() + PUBLISHED.kl_weight * posterior.kl(Gaussian.standard(posterior.mean)).mean()


@torch.no_grad()
def draw(network: ICMNetwork, condition: Tensor) -> Tensor:
    """The first sample, z from N(0, I), under a condition (h,): a code (L,)."""
    z = torch.randn(1, PUBLISHED.latent_size, generator=torch.Generator().manual_seed(SEED))
    return network.decode(z, condition[None])[0]


def generated(pipeline: Pipeline, tasks: Sequence[Task], experts: Zoo) -> dict[str, Lora]:
    """What a generator of ours makes for the tasks: its first sample.

    The expert itself is at hand, but only a generator that was trained the published way looks at it.
    """
    adapters = {}
    for task in tasks:
        # The texts that `prepared` reads, with their labels.
        examples = few_of(task, TEXTS, seed=SEED)
        evidence = Evidence(task.description, examples=examples, own_adapter=experts.adapter(task.id))
        (generation,) = pipeline.generate(evidence, seed=SEED)
        adapters[task.id] = generation.adapter
    return adapters


def size_of(trained: object, *, models: int = 1) -> dict[str, int]:
    """How many models there are and the parameters of one; nothing for a merge."""
    network = getattr(trained, "network", None)
    return {} if network is None else {"models": models, "parameters": sum(p.numel() for p in network.parameters())}


@dataclass(frozen=True)
class Bench:
    """Scores adapters on the judged tasks' test files, and keeps the figures."""

    experts: Zoo
    tasks: tuple[Task, ...]
    base: Base
    results: dict[str, Any]
    before: dict[str, float]
    """Mean scores of the bare base on these tasks, from the cards."""
    after: dict[str, float]
    """Of the experts."""

    @classmethod
    def of(cls, experts: Zoo, judged: Sequence[str], results: dict[str, Any]) -> "Bench":
        """Read the judged tasks and the base."""
        tasks = TaskSet.from_yaml(TASKS)
        cards = [experts.card(expert) for expert in judged]
        return cls(
            experts,
            tuple(tasks[expert] for expert in judged),
            experts.load_base(),  # in float32, as the cards were scored
            results,
            means([card.before for card in cards]),
            means([card.after for card in cards]),
        )

    def add_references(self) -> None:
        """Base and expert as their cards have them, and the mean of the expert's snapshots."""
        cards = [self.experts.card(task.id) for task in self.tasks]
        self.keep("base", {card.id: card.before for card in cards})
        self.keep("expert's own", {card.id: card.after for card in cards})
        if "mean of its snapshots" not in self.results:
            self.score("mean of its snapshots", {card.id: mean_of_snapshots(self.experts, card.id) for card in cards})

    def score(self, method: str, adapters: Mapping[str, Lora], facts: Mapping[str, Any] | None = None) -> None:
        """Score and keep a method's adapters, one a task."""
        length, scores = self.experts.manifest.recipe.score_length, {}
        for task in self.tasks:
            data = self.base.prepare(task.load_test(), max_length=length)
            scores[task.id] = labelled(self.base.score(data, adapters[task.id]))
        self.keep(method, scores, facts)
        print(f"{method}: { ({k: v for k, v in self.results[method].items() if k != 'tasks'}) }", flush=True)

    def keep(self, method: str, scores: Mapping[str, Scores], facts: Mapping[str, Any] | None = None) -> None:
        """Write a method's means, what they are of the experts', its facts, and its scores by task."""
        figures: dict[str, Any] = {}
        for score, mean in means(list(scores.values())).items():
            figures[score] = round(mean, 4)
            figures[f"{score} kept"] = round(mean / self.after[score], 4)
            figures[f"{score} gain"] = round(recovered_gain(mean, self.before[score], self.after[score]), 4)
        figures |= dict(facts or {})
        figures["tasks"] = {task: {score: round(getattr(s, score), 4) for score in MAIN} for task, s in scores.items()}
        self.results[method] = figures
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(self.results, indent=1, ensure_ascii=False) + "\n")


def means(scores: Sequence[Scores]) -> dict[str, float]:
    """Mean over tasks of each of `MAIN`."""
    return {name: sum(getattr(own, name) for own in scores) / len(scores) for name in MAIN}


def mean_of_snapshots(experts: Zoo, expert: str) -> Lora:
    """The mean of the points of an expert's training that were kept, over its own A."""
    adapter = experts.adapter(expert)
    points = experts.snapshots(expert)
    return replace(adapter, lora_B={site: b.mean(0).to(adapter.lora_B[site]) for site, b in points.items()})


def markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Means over the tasks; behind each score, what share of the expert's it is and the recovered gain."""
    lines = [
        "| adapter | label-text accuracy | kept | gain | kNN accuracy | kept | gain | error | parameters | steps | "
        "training, s | a step, s |",
        "|" + "---|" * 12,
    ]
    for method, kept in results.items():
        cells = [method]
        for score in MAIN:
            cells += [f"{kept[score]:.3f}", f"{kept[f'{score} kept']:.0%}", f"{kept[f'{score} gain']:.2f}"]
        cells.append(f"{kept['error']:.3f}" if "error" in kept else "")
        cells.append(f"{_each(kept)}{kept['parameters'] / 1e6:.1f} M" if "parameters" in kept else "")
        cells.append(f"{_each(kept)}{kept['steps']:,}" if "steps" in kept else "")
        cells.append(f"{kept['training seconds']:.0f}" if "training seconds" in kept else "")
        cells.append(f"{kept['seconds a step']:.3f}" if "seconds a step" in kept else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _each(kept: Mapping[str, Any]) -> str:
    return f"{kept['models']} of " if kept["models"] > 1 else ""


if __name__ == "__main__":
    main()
