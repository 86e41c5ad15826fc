"""ICM-LoRA's language setting: experts by domain over a small language model, scored by perplexity and bits per byte.

    python benchmarks/language.py base [--tokens 20000000]  # domain files, tokenizer and base, in runs/language
    python benchmarks/language.py zoo                       # experts by domain; sg and icm trained on them
    python benchmarks/language.py measure [--only ROW …]    # what is not yet in the tables
    python benchmarks/language.py --show                    # the tables again, from the figures kept

The domains of configs/tasks/domains.yaml are plain texts of the experts' tasks. Those of its split `experts` are seen:
the base and the experts learn from their train texts. Of the others neither does, and their own experts are there to
compare with; nor is any text of the validation or test tasks among what is learnt from. Every adapter is made from a
domain's description alone, or, for control, from that of the next domain of its group, and scored on the first 300
texts of the domain's test file in random order. The description of a seen domain is one that generators know.
Figures go to benchmarks/results/language.json, domain by domain: an interrupted run goes on where it was.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean
from typing import Any

from language_base import FACTS, BaseRecipe, train_base
from language_tables import BASE, EXPERT, MULTITASK, RESULTS, TOLD_ANOTHER, kept, tables
from language_texts import SEEN, UNSEEN, gather, write_domains
from score_unseen import TASKS, few_of

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import LanguageScores
from loragen.bases.tokenised import TaskData
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, LoragenError
from loragen.evaluation.workspace import shuffled
from loragen.files import atomic_write, sha256_of
from loragen.generation import Pipeline
from loragen.generators.icm.model import ICM, TENSORS
from loragen.generators.registry import row_of
from loragen.generators.train import read_config, train_generator
from loragen.generators.trained import TrainConfig
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.zoo import Zoo

SEEDS = (0, 1, 2)
GROUPS = {"seen": SEEN, "unseen": UNSEEN}


@dataclass(frozen=True)
class Settings:
    """What is built and measured, and where."""

    tasks: Path
    """Whose texts are taken."""
    base: BaseRecipe
    zoo: ZooConfig
    """Its tasks are the domains, and its base is where the base is written."""
    generators: tuple[TrainConfig, ...]
    texts: int = 300
    """Of a test file that are scored."""
    results: Path = RESULTS

    @classmethod
    def read(cls) -> "Settings":
        """As in configs."""
        return cls(
            TASKS,
            BaseRecipe(),
            ZooConfig.from_yaml(Path("configs/zoo/language.yaml")),
            tuple(read_config(Path(f"configs/train/language-{name}.yaml")) for name in ("sg", "icm")),
        )


@dataclass(frozen=True)
class Row:
    """An adapter for each domain."""

    generator: str
    """Or `BASE`, `MULTITASK` or `EXPERT`."""
    told_another: bool = False
    """Made from the description of another domain."""
    prior_scale: float | None = None
    """Of icm, in place of its own."""
    shots: int = 0
    """Train texts of the domain that are read beside the description; of generators alone that can."""


PLAIN = {
    "mean": Row("mean"),
    "nearest": Row("nearest"),
    "topk": Row("topk"),
    "sg": Row("sg"),
    "icm": Row("icm"),
    "icm, z = 0": Row("icm", prior_scale=0.0),
    "icm, z = 0, 16 texts": Row("icm", prior_scale=0.0, shots=16),
}
ROWS = {
    BASE: Row(BASE),
    MULTITASK: Row(MULTITASK),
    **PLAIN,
    EXPERT: Row(EXPERT),
    **{TOLD_ANOTHER.format(name): replace(row, told_another=True) for name, row in PLAIN.items() if name != "mean"},
}


# --- stages -----------------------------------------------------------------------------------------------------------


def run_base(settings: Settings) -> None:
    """Write the domains' files and train the base, unless it is there."""
    out, domains = Path(settings.zoo.base), TaskSet.from_yaml(settings.zoo.tasks)
    texts = gather(TaskSet.from_yaml(settings.tasks), domains)
    write_domains(texts, domains)
    for task in domains:
        part = texts.domains[task.id]
        print(f"{task.id}: {len(part.train)} train texts, {len(part.test)} test texts")
    if not out.exists():
        with console.progress() as update:
            steps = settings.base.steps
            train_base(texts.base, settings.base, out, on_step=lambda step: update("base", step, steps))
    print((out / FACTS).read_text())


def run_zoo(settings: Settings) -> None:
    """Build the zoo and train the generators, as far as they are not there."""
    if not (Path(settings.zoo.base) / FACTS).exists():
        raise ConfigError(f"There is no base in {settings.zoo.base}; train it first: benchmarks/language.py base.")
    with console.progress() as update:
        build_zoo(settings.zoo, progress=update)
        for config in settings.generators:
            if not config.out.exists():
                train_generator(config, on_step=partial(_report, update, config))


def _report(update: Callable[[str, int, int], None], config: TrainConfig, step: int) -> None:
    update(row_of(config).name, step, config.steps)


def run_measure(settings: Settings, only: Sequence[str] | None = None) -> None:
    """Score what is not yet scored."""
    bench = Bench.open(settings)
    facts = bench.facts()
    figures = kept(settings.results) or {**facts, "rows": {}}
    if any(figures[name] != facts[name] for name in ("base", "zoo", "groups", "texts")):
        raise ConfigError(f"{settings.results} holds figures of another zoo or texts; remove it to measure this one.")
    # Rows of generators that were trained anew since are out of date.
    known, now = figures["generators"], facts["generators"]
    rows = {n: r for n, r in figures["rows"].items() if known.get(ROWS[n].generator) == now.get(ROWS[n].generator)}
    with console.progress() as update:
        for name in only or ROWS:
            if not bench.applies(ROWS[name]):
                continue
            scores = rows.setdefault(name, {})
            for done, (task, other) in enumerate(bench.pairs()):
                update(name, done, len(bench.domains))
                if task.id not in scores:
                    scores[task.id] = bench.judge(ROWS[name], task, other)
                    ordered = {row: rows[row] for row in ROWS if row in rows}
                    _write(settings.results, {**facts, "rows": ordered})
            update(name, len(bench.domains), len(bench.domains))


@dataclass(frozen=True)
class Bench:
    """What adapters are made with, and judged on."""

    settings: Settings
    zoo: Zoo
    domains: TaskSet
    base: Base

    @classmethod
    def open(cls, settings: Settings) -> "Bench":
        """What the earlier stages have left."""
        zoo = Zoo.open(settings.zoo.out)
        return cls(settings, zoo, TaskSet.from_yaml(settings.zoo.tasks), zoo.load_base(device=settings.zoo.device))

    def facts(self) -> dict[str, Any]:
        """What figures hold for."""
        return {
            "base": json.loads((Path(self.settings.zoo.base) / FACTS).read_text()),
            "zoo": self.zoo.fingerprint,
            "groups": {name: [task.id for task in self.domains.split(split)] for name, split in GROUPS.items()},
            "texts": self.settings.texts,
            "generators": {row_of(c).name: sha256_of(c.out / TENSORS) for c in self.settings.generators},
        }

    @cached_property
    def encoder(self) -> TextEncoder:
        """The generators' own."""
        return TextEncoder.load(self.settings.generators[0].encoder)

    @cached_property
    def pipelines(self) -> dict[tuple[str, float | None], Pipeline]:
        """Generators by name and, for icm, by the scale of the prior in place of its own."""
        names = {name: name for name in ("mean", "nearest", "topk")}
        names |= {row_of(config).name: str(config.out) for config in self.settings.generators}
        found: dict[tuple[str, float | None], Pipeline] = {}
        for name, place in names.items():
            found[name, None] = opened = Pipeline.open(place, self.zoo, self.encoder)
            if isinstance(opened.generator, ICM):
                found[name, 0.0] = replace(opened, generator=opened.generator.with_prior_scale(0.0))
        return found

    @cached_property
    def _data(self) -> dict[str, TaskData]:
        return {}

    def pairs(self) -> Iterator[tuple[Task, Task]]:
        """Each domain and the next of its group."""
        for split in GROUPS.values():
            tasks = self.domains.split(split)
            yield from zip(tasks, (*tasks[1:], tasks[0]), strict=True)

    def applies(self, row: Row) -> bool:
        """True if the generator can read all that the row shows it."""
        return not row.shots or "texts" in self.pipelines[row.generator, row.prior_scale].generator.evidence

    def judge(self, row: Row, task: Task, other: Task) -> dict[str, float]:
        """Scores of a row on a domain, means over the seeds of a stochastic generator."""
        scores = [self.base.score(self.data(task), adapter) for adapter in self.adapters(row, task, other)]
        assert all(isinstance(each, LanguageScores) for each in scores)
        return {
            score: round(mean(getattr(each, score) for each in scores), digits)
            for score, digits in (("perplexity", 3), ("bits_per_byte", 5))
        }

    def adapters(self, row: Row, task: Task, other: Task) -> list[Lora | None]:
        """One, or one a seed; `None` is the bare base."""
        if row.generator == BASE:
            return [None]
        if row.generator == MULTITASK:
            return [self.zoo.multitask()]
        if row.generator == EXPERT:
            return [self.zoo.adapter(task.id)]
        pipeline = self.pipelines[row.generator, row.prior_scale]
        told = other if row.told_another else task
        evidence = Evidence(told.description, examples=few_of(told, row.shots, seed=1) if row.shots else None)
        varies = pipeline.generator.is_stochastic and row.prior_scale != 0
        return [pipeline.generate(evidence, seed=seed)[0].adapter for seed in (SEEDS if varies else SEEDS[:1])]

    def data(self, task: Task) -> TaskData:
        """The test texts of a domain."""
        if task.id not in self._data:
            length = self.zoo.manifest.recipe.score_length
            examples = shuffled(task)
            examples = examples.subset(range(min(self.settings.texts, len(examples))))
            self._data[task.id] = self.base.prepare(examples, max_length=length)
        return self._data[task.id]


def _write(path: Path, figures: Mapping[str, Any]) -> None:
    atomic_write(path, json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", nargs="?", choices=("base", "zoo", "measure"))
    parser.add_argument("--tokens", type=int, default=BaseRecipe.tokens, help="length of the base's training")
    parser.add_argument("--only", nargs="*", choices=ROWS, metavar="ROW", help="rows to measure")
    parser.add_argument("--show", action="store_true", help="print the tables of what is kept")
    arguments = parser.parse_args()
    if arguments.show == bool(arguments.stage):
        parser.error("wanted either a stage or --show")
    settings = Settings.read()
    settings = replace(settings, base=replace(settings.base, tokens=arguments.tokens))
    stages: dict[str, Callable[[Settings], None]] = {
        "base": run_base,
        "zoo": run_zoo,
        "measure": partial(run_measure, only=arguments.only),
    }
    try:
        if arguments.stage:
            stages[arguments.stage](settings)
        if arguments.show or arguments.stage == "measure":
            print(tables())
    except LoragenError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()
