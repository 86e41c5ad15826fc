"""The five small tasks of examples/: the bare base, and adapters from more and more evidence.

    python benchmarks/examples.py           # 8 minutes of processor time
    python benchmarks/examples.py --show    # the table again, from the figures kept

Uses the library as a user would: `loragen.generate` with the description and the labels of examples/tasks.csv, then
`Adapter.classify` on the test file. `centroids` needs no adapter: each test text gets the class whose mean train text,
embedded by the bare base, is nearest. Figures go to benchmarks/results/examples.json.
"""

import argparse
import csv
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import loragen
from loragen.bases.base import Base

EXAMPLES = Path("examples")
RESULTS = Path("benchmarks/results/examples.json")
BASE = "base"
MAX_LENGTH = 128


@dataclass(frozen=True)
class ExampleTask:
    """One line of examples/tasks.csv with its texts."""

    id: str
    description: str
    labels: tuple[str, ...]
    texts: Path
    """60 texts without labels."""
    train: loragen.Examples
    test: loragen.Examples


def read_tasks() -> list[ExampleTask]:
    """The tasks, each with its train and test texts."""
    with (EXAMPLES / "tasks.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    tasks = []
    for row in rows:
        labels = tuple(row["labels"].split("|"))
        train, test = (loragen.Examples.from_file(EXAMPLES / row[part], labels) for part in ("train", "test"))
        unlabelled = EXAMPLES / f"{row['id']}.unlabelled.jsonl"
        tasks.append(ExampleTask(row["id"], row["description"], labels, unlabelled, train, test))
    return tasks


def from_description(task: ExampleTask, generator: str) -> loragen.Adapter:
    """The adapter that a generator makes of description and labels."""
    return loragen.generate(task.description, labels=task.labels, generator=generator, seed=0)


def adapted(task: ExampleTask) -> loragen.Adapter:
    """The default generator's adapter, adapted to texts without labels."""
    return loragen.generate(task.description, labels=task.labels, texts=task.texts, seed=0)


def fitted_and_adapted(task: ExampleTask) -> loragen.Adapter:
    """The same, fitted to the train file before."""
    return loragen.generate(
        task.description, labels=task.labels, texts=task.texts, examples=task.train, fit=True, seed=0
    )


def fitted(task: ExampleTask) -> loragen.Adapter:
    """The default generator's adapter, fitted to the train file."""
    return loragen.generate(task.description, labels=task.labels, examples=task.train, fit=True, seed=0)


def by_centroids(task: ExampleTask, base: Base) -> list[str]:
    """The class of each test text by the nearest mean of train texts, over the bare base's embeddings."""

    def embedded(texts: Sequence[str]) -> torch.Tensor:
        return base.encode(base.tokenize(texts, max_length=MAX_LENGTH))

    vectors, classes = embedded(task.train.texts), torch.tensor(task.train.labels)
    means = torch.stack([vectors[classes == at].mean(0) for at in range(len(task.labels))])
    nearest = (embedded(task.test.texts) @ F.normalize(means, dim=1).T).argmax(1)
    return [task.labels[at] for at in nearest.tolist()]


ADAPTERS: dict[str, Callable[[ExampleTask], loragen.Adapter]] = {
    "topk": lambda task: from_description(task, "topk"),
    "sg": lambda task: from_description(task, "sg"),
    "sg, 60 texts": adapted,
    "sg, fitted to 24": fitted,
    "sg, 24, 60 texts": fitted_and_adapted,
}
METHODS = (BASE, *ADAPTERS, "centroids of 24")


def measured(task: ExampleTask) -> dict[str, Any]:
    """For each method, which test texts it gets right, and the processor time that each adapter took."""
    found: dict[str, list[str]] = {}
    seconds = {}
    base: Base | None = None
    for name, make in ADAPTERS.items():
        begun = time.process_time()
        adapter = make(task)
        seconds[name] = round(time.process_time() - begun, 1)
        base = base or adapter.opened_base
        adapter = adapter.with_base(base)
        found.setdefault(BASE, [one.label for one in adapter.classify(task.test.texts, adapted=False)])
        found[name] = [one.label for one in adapter.classify(task.test.texts)]
    assert base is not None
    found[METHODS[-1]] = by_centroids(task, base)
    wanted = task.test.outputs
    assert wanted is not None
    right = {method: [label == name for label, name in zip(found[method], wanted, strict=True)] for method in METHODS}
    return {
        "texts": len(wanted),
        "right": {method: sum(values) for method, values in right.items()},
        "gained": {m: sum(new and not old for new, old in zip(right[m], right[BASE], strict=True)) for m in METHODS},
        "lost": {m: sum(old and not new for new, old in zip(right[m], right[BASE], strict=True)) for m in METHODS},
        "cpu_seconds": seconds,
    }


def kept() -> dict[str, dict[str, Any]]:
    """The figures of the last run, by task."""
    figures: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text())
    return figures


def table(figures: dict[str, dict[str, Any]]) -> str:
    """Accuracy by task, and over all texts how many each method gains on the bare base and loses to it."""
    rows = [
        [task, *(f"{row['right'][method] / row['texts']:.2f}" for method in METHODS)] for task, row in figures.items()
    ]
    texts = sum(row["texts"] for row in figures.values())
    totals = {
        what: {method: sum(row[what][method] for row in figures.values()) for method in METHODS}
        for what in ("right", "gained", "lost")
    }
    rows.append([f"all {texts} texts", *(f"{right / texts:.3f}" for right in totals["right"].values())])
    for what, title in (("gained", "right, and wrong by the base"), ("lost", "wrong, and right by the base")):
        rows.append([title, *("" if method == BASE else str(total) for method, total in totals[what].items())])
    lines = [f"| task | {' | '.join(METHODS)} |", "|---" * (1 + len(METHODS)) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    if not parser.parse_args().show:
        figures = {}
        for task in read_tasks():
            figures[task.id] = measured(task)
            print(f"{task.id}: {figures[task.id]}", flush=True)
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(table(kept()))


if __name__ == "__main__":
    main()
