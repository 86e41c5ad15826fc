"""Scores of generated adapters on tasks by how much evidence there is of each: the raw material of `evidence.py`.

    python benchmarks/evidence_runs.py --split validation [--part 0/2] [--rows ROW …] [--seeds 0]

For every seed the texts, examples and samples are drawn anew; all rows of a seed see the same. Scores are of the first
200 texts of the test file in random order. A line a row goes to benchmarks/results/evidence/SPLIT-PART.jsonl; goes on
where it was.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from left_out_reads import unlabelled
from score_unseen import TASKS, labelled

from loragen.adaptation.self_training import Adapted, AdaptRecipe, self_train
from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.figures import Figures, of_description, of_labels, of_texts
from loragen.evaluation.workspace import shuffled, task_rng
from loragen.generation import Pipeline
from loragen.generators.base import Generation
from loragen.recipes.few_shot import FewShotRecipe, fit_examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/evidence")
ORACLES = Path("benchmarks/oracles")
SHOTS, TEST_TEXTS, SEEDS = 8, 200, (0, 1, 2)
BASE, SHARED, ORACLE, WORDS = "base", "multi-task LoRA", "oracle", "description"
T200, T50, T1000 = "200 texts", "50 texts", "1,000 texts"
FEW, BOTH = "8 a class", "8 a class, 200 texts"
ONCE = (BASE, SHARED, ORACLE, T1000)
"""Rows of the first seed alone."""
ROWS = (BASE, SHARED, ORACLE, WORDS, T200, FEW, BOTH, T50, T1000)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all tasks share."""

    zoo: Zoo
    base: Base
    encoder: TextEncoder
    oracles: Zoo
    adapt: AdaptRecipe
    fit: FewShotRecipe

    @cached_property
    def sg(self) -> Pipeline:
        """The generator."""
        return Pipeline.open("sg", self.zoo, self.encoder)

    @cached_property
    def topk(self) -> Pipeline:
        """The merge of nearest experts, which the generator's direction is compared with."""
        return Pipeline.open("topk", self.zoo, self.encoder)

    @cached_property
    def shared(self) -> Lora:
        """The zoo's one adapter for all tasks."""
        return self.zoo.multitask()


@dataclass(frozen=True, eq=False)
class Draw:
    """One task with what one seed draws of it."""

    bench: Bench
    task: Task
    seed: int

    @cached_property
    def generation(self) -> Generation:
        """By the description alone."""
        return self.bench.sg.generate(Evidence(self.task.description), seed=self.seed)[0]

    @cached_property
    def examples(self) -> TaskData:
        """Eight labelled examples of each class."""
        few = self.task.load_train().few(SHOTS, rng=task_rng(self.task, f"examples {self.seed}"))
        return self.bench.base.prepare(few, max_length=self.bench.fit.max_length)

    @cached_property
    def fitted(self) -> Lora:
        """The generated adapter, fitted to those."""
        return fit_examples(self.generation.adapter, self.examples, self.bench.base, self.bench.fit)

    def texts(self, number: int) -> TaskData:
        """Texts without labels."""
        drawn = unlabelled(self.task, number, seed=self.seed)
        return self.bench.base.prepare(drawn, max_length=self.bench.adapt.fit.max_length)

    def adapter(self, row: str) -> tuple[Lora | None, Figures]:
        """The adapter of a row, and the figures by which its gain can be foretold."""
        if row in (BASE, SHARED, ORACLE):
            known = {SHARED: lambda: self.bench.shared, ORACLE: lambda: self.bench.oracles.adapter(self.task.id)}
            return (known[row]() if row in known else None), {}
        if row == WORDS:
            return self.generation.adapter, self.told
        if row == FEW:
            return self.fitted, {}
        if row == BOTH:
            return self._self_trained(self.fitted, self.texts(200), self.examples).lora, {}
        texts = self.texts({T50: 50, T200: 200, T1000: 1000}[row])
        made = self._self_trained(self.generation.adapter, texts, None)
        return made.lora, self.told | of_texts(self.bench.base.read(texts), made.before, made.guess)

    @cached_property
    def told(self) -> Figures:
        """Figures of the description and of the labels' names."""
        merge = self.bench.topk.generate(Evidence(self.task.description))[0].adapter
        one = self.generation
        told = of_description(one.adapter, one.neighbours, merge=merge, shared=self.bench.shared)
        return told | of_labels(self.task.labels, self.task.description, self.bench.encoder)

    def _self_trained(self, start: Lora, texts: TaskData, examples: TaskData | None) -> Adapted:
        return self_train(start, texts, self.bench.base, self.bench.adapt, labelled=examples)


def lines(split: str) -> Iterator[dict[str, object]]:
    """All lines of a split."""
    for file in sorted(RESULTS.glob(f"{split}-*.jsonl")):
        yield from (json.loads(line) for line in file.read_text().splitlines())


def todo(
    tasks: list[Task], rows: tuple[str, ...], seeds: tuple[int, ...]
) -> Iterator[tuple[Task, int, tuple[str, ...]]]:
    """Seed after seed, so that an unfinished run has all tasks of the first."""
    for seed in seeds:
        for task in tasks:
            yield task, seed, tuple(row for row in rows if seed == SEEDS[0] or row not in ONCE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("validation", "test_near", "test_far"), required=True)
    parser.add_argument("--part", default="0/1", help="of several processes: number/processes")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=ROWS)
    parser.add_argument("--seeds", nargs="*", type=int, choices=SEEDS, default=SEEDS)
    arguments = parser.parse_args()
    number, processes = map(int, arguments.part.split("/"))
    torch.set_num_threads(1)
    zoo = Zoo.open()
    bench = Bench(zoo, zoo.load_base(), TextEncoder.load(), Zoo.open(ORACLES), AdaptRecipe(), FewShotRecipe())
    RESULTS.mkdir(parents=True, exist_ok=True)
    tasks = TaskSet.from_yaml(TASKS).split(arguments.split)[number::processes]
    for task, seed, rows in todo(list(tasks), tuple(arguments.rows), tuple(arguments.seeds)):
        known = {(one["task"], one["seed"], one["row"]) for one in lines(arguments.split)}
        wanted = [row for row in rows if (task.id, seed, row) not in known]
        if not wanted:
            continue
        test = bench.base.prepare(shuffled(task), max_length=zoo.manifest.recipe.score_length).first(TEST_TEXTS)
        draw = Draw(bench, task, seed)
        for row in wanted:
            begun = time.monotonic()
            adapter, figures = draw.adapter(row)
            made = time.monotonic() - begun
            scores = labelled(bench.base.score(test, adapter))
            line = {"task": task.id, "family": task.family or task.id, "seed": seed, "row": row}
            line |= {"accuracy": round(scores.accuracy, 4), "knn_accuracy": round(scores.knn_accuracy, 4)}
            line |= {"seconds": round(made, 1), "figures": {name: round(value, 5) for name, value in figures.items()}}
            with (RESULTS / f"{arguments.split}-{number}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
            console.say(f"{task.id} {seed} {row}: {scores.accuracy:.3f} in {made:.0f} s")


if __name__ == "__main__":
    main()
