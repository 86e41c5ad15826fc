"""What helps a generator on tasks it has not seen: the search behind the defaults, on the 13 validation tasks.

    python benchmarks/generalisation.py [--zoo zoo/minilm] [--only NAME …]   # what is not yet in the table
    python benchmarks/generalisation.py --show                               # the tables again, from the figures kept

A variant changes a training config as stated, and leaves its generator in runs/generalisation. Each is judged by the
description alone, on whole test files; "steers" is what it costs to be told the next task's description instead, on the
first 100 texts. Figures go to benchmarks/results/generalisation.json, by where the zoo's experts began;
benchmarks/generalisation.md reads them. A row whose variant is no longer here stays in the tables; that page says where
its code is.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from score_unseen import MAIN, TASKS

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.bases.scores import Scores, scores_of
from loragen.bases.tokenised import TaskData
from loragen.cli import console
from loragen.conditions.condition import Condition, Evidence
from loragen.conditions.index import Index
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.base import DescriptionGenerator, Generation, Generator
from loragen.generators.baselines import Mean, TopK
from loragen.generators.hyper.data import ExpertStarts
from loragen.generators.registry import open_generator
from loragen.generators.train import read_config, train_generator
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.expert_index import ExpertIndex, mean_direction
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/generalisation.json")
RUNS = Path("runs/generalisation")
SEEDS = (0, 1, 2)
SHORT = 100
"""Texts a task on which two descriptions are compared."""


@dataclass(frozen=True)
class Variant:
    """A generator to train, or a merge that needs no training."""

    config: str = ""
    """Of configs/train; empty for a merge."""
    changes: tuple[str, ...] = ()
    top_k: int | None = None
    """Of a merge; the mean of all experts where it is empty too."""
    temperature: float = 0.1
    experts: int | None = None
    """Of the zoo, drawn at random; all where empty."""
    from_folds: float | None = None
    """Adds so much of the merge, less the adapter for all tasks, to the mean of the folds."""
    template: str | None = None
    """What the text encoder reads in place of a description."""
    with_labels: bool = False
    """Compares label names beside descriptions, in equal shares."""


@dataclass(frozen=True, eq=False)
class ReadOtherwise(DescriptionGenerator):
    """A merge by nearness of something else than plain descriptions."""

    merge: TopK
    embed: Callable[[str], torch.Tensor]
    """From a description to a unit vector, as experts have one in the merge's index."""
    name: ClassVar[str] = "read otherwise"
    is_stochastic: ClassVar[bool] = False

    @classmethod
    def within(cls, template: str, merge: TopK, encoder: TextEncoder) -> "ReadOtherwise":
        """Descriptions within a template."""

        def embed(*descriptions: str) -> torch.Tensor:
            return mean_direction(encoder.encode([template.format(text) for text in descriptions]))

        return cls(_indexed(merge, [embed(*card.descriptions) for card in merge.library.zoo]), embed)

    @classmethod
    def with_labels(cls, merge: TopK, encoder: TextEncoder, tasks: Sequence[Task]) -> "ReadOtherwise":
        """Descriptions and label names in equal shares; label names of the ``tasks`` that it will be told are known."""
        labels_of = {task.description: task.labels for task in tasks}

        def both(descriptions: Sequence[str], labels: Sequence[str]) -> torch.Tensor:
            parts = [mean_direction(encoder.encode(texts)) for texts in (descriptions, labels)]
            return F.normalize(torch.cat(parts), dim=0)

        experts = [both(card.descriptions, card.labels) for card in merge.library.zoo]
        return cls(_indexed(merge, experts), lambda told: both([told], labels_of[told]))

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """One merge."""
        return self.merge.generate(replace(condition, embedding=self.embed(condition.description)), rng=rng)


def _indexed(merge: TopK, experts: Sequence[torch.Tensor]) -> TopK:
    library = merge.library
    return replace(merge, library=replace(library, index=Index.build(library.zoo.ids, torch.stack(list(experts)))))


@dataclass(frozen=True, eq=False)
class FromFolds(DescriptionGenerator):
    """The mean of the folds, and what training added to the experts of a merge."""

    merge: Generator
    frame: Frame
    start: torch.Tensor
    began: Mapping[str, torch.Tensor]
    """Coordinates that an expert began at, by its id."""
    scale: float
    name: ClassVar[str] = "from folds"
    is_stochastic: ClassVar[bool] = False

    @classmethod
    def of(cls, merge: Generator, zoo: Zoo, scale: float) -> "FromFolds":
        """For a zoo with folds."""
        frame = frame_of(zoo, [zoo.adapter(expert) for expert in zoo.ids])
        began = ExpertStarts.of(zoo, frame)
        return cls(merge, frame, began.folds.starts.mean(0), dict(zip(zoo.ids, began.experts, strict=True)), scale)

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """One merge, shifted."""
        (made,) = self.merge.generate(condition, rng=rng)
        began = torch.stack([neighbour.weight * self.began[neighbour.id] for neighbour in made.neighbours]).sum(0)
        beyond = self.frame.coordinates(made.adapter) - began
        return [Generation(self.frame.adapter(self.start + self.scale * beyond, base=None), made.neighbours)]


@dataclass(frozen=True, eq=False)
class Always(DescriptionGenerator):
    """One adapter, whatever the task."""

    adapter: Lora
    name: ClassVar[str] = "always"
    is_stochastic: ClassVar[bool] = False

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """That adapter."""
        return [Generation(self.adapter, ())]


MULTITASK = "multi-task LoRA"
VARIANTS: dict[str, Variant] = {
    MULTITASK: Variant(),
    "mean of all experts": Variant(),
    "mean of the folds": Variant(from_folds=0),
    "folds + mean of all experts": Variant(from_folds=1),
    "folds + topk: K 4, τ 0.1": Variant(top_k=4, from_folds=1),
    "folds + topk: K 8, τ 0.1": Variant(top_k=8, from_folds=1),
    "folds + topk: K 16, τ 0.1": Variant(top_k=16, from_folds=1),
    "folds + 1.5 topk: K 16, τ 0.1": Variant(top_k=16, from_folds=1.5),
    **{f"mean of {n} experts": Variant(experts=n) for n in (25, 50, 75)},
    "topk: K 4, τ 0.1": Variant(top_k=4),
    **{f"topk: K 4, τ 0.1, {n} experts": Variant(top_k=4, experts=n) for n in (25, 50, 75)},
    "topk: K 8, τ 0.1": Variant(top_k=8),
    **{f"topk: K 8, τ 0.1, {n} experts": Variant(top_k=8, experts=n) for n in (25, 50, 75)},
    "topk: K 8, τ 0.1, with label names": Variant(top_k=8, with_labels=True),
    "topk: K 8, τ 0.1, “Sort texts. {}”": Variant(top_k=8, template="Sort texts. {}"),
    "topk: K 8, τ 0.05": Variant(top_k=8, temperature=0.05),
    "topk: K 16, τ 0.1": Variant(top_k=16),
    "topk: all, τ 0.05": Variant(top_k=101, temperature=0.05),
    "topk: all, τ 0.2": Variant(top_k=101, temperature=0.2),
    "hyper": Variant("hyper"),
    "hyper, weights": Variant("hyper", ("objective=weights",)),
    "hyper, weights, then task": Variant("hyper", ("objective=both",)),
    "hyper, absolute": Variant("hyper", ("hyper.residual=false",)),
    "hyper, basis 4": Variant("hyper", ("hyper.basis_size=4",)),
    "hyper, contrast 0": Variant("hyper", ("contrast_weight=0",)),
    "sg": Variant("sg"),
    "icm": Variant("icm"),
}


def generator_of(name: str, variant: Variant, zoo: Zoo, encoder: TextEncoder) -> Generator:
    """The generator of a variant, trained where an earlier run has not left it."""
    experts = zoo.select(splits={"experts"})
    if variant.experts is not None:
        order = torch.randperm(len(experts), generator=torch.Generator().manual_seed(0)).tolist()
        experts = experts.select(without={experts.ids[at] for at in order[variant.experts :]})
    if not variant.config:
        if name == MULTITASK:
            return Always(zoo.multitask())
        library = ExpertIndex.of(experts, encoder)
        merge = Mean(library) if variant.top_k is None else TopK(library, variant.top_k, variant.temperature)
        if isinstance(merge, TopK) and variant.with_labels:
            return ReadOtherwise.with_labels(merge, encoder, TaskSet.from_yaml(TASKS).split("validation"))
        if isinstance(merge, TopK) and variant.template is not None:
            return ReadOtherwise.within(variant.template, merge, encoder)
        return merge if variant.from_folds is None else FromFolds.of(merge, experts, variant.from_folds)
    folder = RUNS / zoo.manifest.start / name.replace(",", "").replace(" ", "-")
    if not folder.exists():
        path = Path(f"configs/train/{variant.config}.yaml")
        config = read_config(path, [f"zoo={zoo.root}", f"out={folder}", *variant.changes])
        with console.progress() as update:
            train_generator(config, on_step=lambda step: update(name, step, config.steps))
    return open_generator(str(folder), zoo, encoder)


@dataclass(frozen=True)
class Bench:
    """The validation tasks, tokenised."""

    zoo: Zoo
    base: Base
    encoder: TextEncoder
    tasks: Sequence[Task]
    data: Mapping[str, TaskData]

    @classmethod
    def open(cls, zoo: Zoo, encoder: TextEncoder) -> "Bench":
        """Read the tasks' test files."""
        base = zoo.load_base(dtype=choose_dtype("auto"))
        tasks = TaskSet.from_yaml(TASKS).split("validation")
        length = zoo.manifest.recipe.score_length
        data = {task.id: base.prepare(task.load_test(), max_length=length) for task in tasks}
        return cls(zoo, base, encoder, tasks, data)

    def judge(self, generator: Generator) -> dict[str, float]:
        """Means over the tasks, and over the seeds of a stochastic generator."""
        pipeline = Pipeline(generator.name, self.zoo, self.encoder, generator)
        found: dict[str, list[float]] = {}
        for task, other in zip(self.tasks, [*self.tasks[1:], *self.tasks[:1]], strict=True):
            for seed in SEEDS if generator.is_stochastic else SEEDS[:1]:
                adapters = [
                    pipeline.generate(Evidence(each.description), seed=seed)[0].adapter for each in (task, other)
                ]
                whole, first = self._scores(task, adapters[0])
                _, told = self._scores(task, adapters[1], whole=False)
                for score in MAIN:
                    found.setdefault(score, []).append(getattr(whole, score))
                    found.setdefault(f"{score} steers", []).append(getattr(first, score) - getattr(told, score))
        return {name: round(sum(values) / len(values), 4) for name, values in found.items()}

    def _scores(self, task: Task, adapter: Lora, *, whole: bool = True) -> tuple[Scores, Scores]:
        data = self.data[task.id] if whole else self.data[task.id].first(SHORT)
        readout = self.base.read(data, adapter)
        return scores_of(readout), scores_of(readout.first(SHORT))


def kept(start: str) -> dict[str, Any]:
    """The figures there are of a zoo whose experts began at ``start``: multitask or folds."""
    figures: dict[str, Any] = _all_kept().get(start, {})
    return figures


def _all_kept() -> dict[str, Any]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(start: str, name: str, figures: Mapping[str, Any]) -> None:
    """Add the figures of a variant."""
    found = _all_kept()
    found.setdefault(start, {})[name] = figures
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def table(start: str) -> str:
    """The figures kept as Markdown."""
    head = ["variant", "label text", "steers", "kNN", "steers", "epochs", "minutes"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, figures in kept(start).items():
        cells = [f"{figures['accuracy']:.3f}", f"{figures['accuracy steers']:+.3f}"]
        cells += [f"{figures['knn_accuracy']:.3f}", f"{figures['knn_accuracy steers']:+.3f}"]
        cells += [str(figures.get("epochs", "")), str(figures.get("minutes", ""))]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--only", nargs="*", choices=VARIANTS, metavar="NAME")
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    arguments = parser.parse_args()
    if arguments.show:
        print("\n\n".join(f"experts began at: {start}\n{table(start)}" for start in _all_kept()))
        return
    zoo, encoder = Zoo.open(arguments.zoo), TextEncoder.load()
    bench = Bench.open(zoo, encoder)
    for name in arguments.only or VARIANTS:
        if name in kept(zoo.manifest.start):
            continue
        begun = time.monotonic()
        generator = generator_of(name, VARIANTS[name], zoo, encoder)
        facts: dict[str, Any] = {}
        if VARIANTS[name].config:
            facts["minutes"] = round((time.monotonic() - begun) / 60)
            facts["epochs"] = getattr(getattr(generator, "manifest", None), "epochs", "")
        figures = bench.judge(generator) | facts
        keep(zoo.manifest.start, name, figures)
        print(f"{name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
