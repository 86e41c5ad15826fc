"""Eight labelled examples a class by SetFit's protocol: fits of ours beside SetFit and plain classifiers.

    python benchmarks/setfit_rival.py --split validation [--draws 10] [--only ROW …] [--tasks ID …]
    python benchmarks/setfit_rival.py --split validation --show    # the tables again, from the figures kept

Ten draws of eight training examples of each class, the same for all rows, over the same MiniLM; scores are those of the
first 300 texts of the test file in random order. The class of a text is that of the nearest label text for the rows of
label texts, and what a classifier predicts for all others.

SetFit (Tunstall et al. 2022) is the package of that name with the settings that it documents: one epoch of pairs, 16
a batch, cosine similarity loss, learning rate 2e-5, all weights trained, texts of up to 256 tokens, a logistic
regression for a head. "SetFit" takes the paper's R = 20 (`num_iterations`: 40 pairs an example), "SetFit, every pair"
the sampling that the package takes by default since 1.0, every pair with positive ones repeated (more pairs from 12
classes on, 90,000 for 38 classes); the latter is computed where --only names it. SetFit runs in an environment of its
own if need be: name its python with --setfit-python.

Rows with (MTEB) follow MTEB's classification: scikit-learn's logistic regression on plain embeddings, at most 100
iterations. The other classifiers are those of `loragen evaluate`. Figures go to benchmarks/results/setfit_rival.json,
one by one: an interrupted run goes on where it was.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from score_unseen import TASKS
from setfit_tables import RESULTS, SHOTS, kept, tables
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.hub import resolve_model
from loragen.bases.scores import accuracy, macro_f1
from loragen.bases.tokenised import Readout, TaskData
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.workspace import shuffled, task_rng
from loragen.files import atomic_write
from loragen.generation import Pipeline
from loragen.recipes.embedding_classifiers import logistic_regression, nearest_centroid
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, prepare_examples
from loragen.recipes.few_shot_choice import FitChoice, fit_chosen
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

DRAWS = 10
TEXTS = 300
SPLITS = ("validation", "test_near", "test_far")
SETFIT, SETFIT_ALL = "SetFit", "SetFit, every pair"
SETFIT_SETTINGS: dict[str, dict[str, Any]] = {SETFIT: {"num_iterations": 20}, SETFIT_ALL: {}}
"""Beside the package's defaults."""
PLAIN = "sg, 8 a class, label texts"
CHOSEN = "sg, 8 a class, length and strength chosen"


@dataclass(frozen=True, eq=False)
class Case:
    """One draw of examples of one task, read through the base and through the adapter that is fitted to them."""

    task: Task
    draw: int
    begun: Lora
    """The adapter that a fit begins at."""
    base: Base
    length: int
    """Tokens of a text in scoring."""

    @cached_property
    def examples(self) -> Examples:
        """At most `SHOTS` of each class."""
        return self.task.load_train().few(SHOTS, rng=task_rng(self.task, f"examples {self.draw}"))

    @cached_property
    def queries(self) -> Examples:
        """The test texts."""
        return shuffled(self.task).subset(range(min(TEXTS, len(self.task.load_test()))))

    @cached_property
    def targets(self) -> Tensor:
        """Classes of the test texts."""
        assert self.queries.labels is not None
        return torch.tensor(self.queries.labels)

    @cached_property
    def fitting_data(self) -> TaskData:
        """The examples as a fit reads them."""
        return prepare_examples(self.examples, self.base, max_length=FewShotRecipe().max_length)

    @cached_property
    def fitted(self) -> Lora:
        """The plain fit."""
        return fit_examples(self.begun, self.fitting_data, self.base, FewShotRecipe())

    @cached_property
    def bare(self) -> tuple[Readout, Readout]:
        """Examples and test texts through the base."""
        return self._read(None)

    @cached_property
    def adapted(self) -> tuple[Readout, Readout]:
        """Examples and test texts through the fitted adapter."""
        return self._read(self.fitted)

    def chosen(self) -> tuple[Tensor, FitChoice | None]:
        """Logits by the label texts of the fit with the length and strength chosen, and the choice."""
        adapter, choice = fit_chosen(self.begun, self.fitting_data, self.base, FewShotRecipe())
        return self._read(adapter)[1].logits, choice

    def _read(self, adapter: Lora | None) -> tuple[Readout, Readout]:
        told, asked = (self.base.prepare(each, max_length=self.length) for each in (self.examples, self.queries))
        return self.base.read(told, adapter), self.base.read(asked, adapter)


def by_mteb(read: tuple[Readout, Readout]) -> Tensor:
    """Classes predicted by the logistic regression of MTEB's classification tasks."""
    told, asked = read
    return logistic_regression(told.texts, told.targets, asked.texts, scale=1.0, max_iter=100)


def _by(classifier: Callable[[Tensor, Tensor, Tensor], Tensor], read: tuple[Readout, Readout]) -> Tensor:
    told, asked = read
    return classifier(told.texts, told.targets, asked.texts)


LABEL_TEXTS: dict[str, Callable[[Case], Tensor]] = {
    "base, label texts": lambda case: case.bare[1].logits,
    PLAIN: lambda case: case.adapted[1].logits,
}
"""Rows of label texts but for `CHOSEN`, and their logits."""
ROWS: dict[str, Callable[[Case], Tensor]] = {
    "centroid, 8 a class": lambda case: _by(nearest_centroid, case.bare),
    "centroid over sg, 8 a class": lambda case: _by(nearest_centroid, case.adapted),
    "logistic regression, 8 a class": lambda case: _by(logistic_regression, case.bare),
    "logistic regression over sg, 8 a class": lambda case: _by(logistic_regression, case.adapted),
    "logistic regression (MTEB), 8 a class": lambda case: by_mteb(case.bare),
    "logistic regression (MTEB) over sg, 8 a class": lambda case: by_mteb(case.adapted),
}
"""Rows of classifiers but for SetFit's, and the classes that they predict."""
ALL_ROWS = (*LABEL_TEXTS, CHOSEN, *ROWS, SETFIT, SETFIT_ALL)


class SetFit:
    """A process that trains SetFit.

    Raises:
        SystemExit: its python has no `setfit`.
    """

    def __init__(self, python: str) -> None:
        worker = Path(__file__).with_name("setfit_worker.py")
        self.process = subprocess.Popen(
            [python, str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        told = self._answer()
        if "error" in told:
            self.close()
            sys.exit(
                f"{python} cannot import setfit ({told['error']}). Make an environment (python -m venv setfit-venv; "
                "setfit-venv/bin/pip install setfit) and name its python with --setfit-python."
            )
        self.versions: dict[str, str] = told["versions"]

    def predict(self, case: Case, model: Path, settings: dict[str, Any]) -> dict[str, Any]:
        """Predictions for the test texts of a case, and seconds."""
        separator = case.base.tokenizer.sep_token
        job = {
            "model": str(model),
            "texts": _joined(case.examples, separator),
            "targets": case.examples.labels,
            "queries": _joined(case.queries, separator),
            "seed": case.draw,
            "settings": settings,
        }
        assert self.process.stdin is not None
        print(json.dumps(job), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            sys.exit("The process that trains SetFit ended; run benchmarks/setfit_worker.py by hand to see why.")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@contextmanager
def setfit_process(python: str, *, wanted: bool) -> Iterator[SetFit | None]:
    """The process while the block runs; `None` where no row wants it."""
    process = SetFit(python) if wanted else None
    try:
        yield process
    finally:
        if process is not None:
            process.close()


def _joined(examples: Examples, separator: str) -> list[str]:
    """Texts, each with its second text behind a separator token, as the base reads them."""
    if examples.pairs is None:
        return list(examples.texts)
    return [f"{one} {separator} {other}" for one, other in zip(examples.texts, examples.pairs, strict=True)]


def scores(predicted: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy and macro-F1 with four digits."""
    return {"accuracy": round(accuracy(predicted, targets), 4), "macro_f1": round(macro_f1(predicted, targets), 4)}


def label_text_scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """The same, with the cross-entropy to the label texts in nats."""
    loss = round(float(torch.nn.functional.cross_entropy(logits, targets)), 4)
    return scores(logits.argmax(1), targets) | {"cross_entropy": loss}


def judge(row: str, case: Case, setfit: SetFit | None, model: Path) -> dict[str, Any]:
    """Scores of a row on a case, and what is to be kept beside them."""
    if row in ROWS:
        return scores(ROWS[row](case), case.targets)
    if row in LABEL_TEXTS:
        return label_text_scores(LABEL_TEXTS[row](case), case.targets)
    if row == CHOSEN:
        logits, choice = case.chosen()
        return label_text_scores(logits, case.targets) | _facts(choice)
    assert setfit is not None
    answer = setfit.predict(case, model, SETFIT_SETTINGS[row])
    return scores(torch.tensor(answer["predicted"]), case.targets) | {"seconds": answer["seconds"]}


def _facts(choice: FitChoice | None) -> dict[str, Any]:
    """The steps and strength chosen, and the loss out of fold of each."""
    if choice is None:  # a class with fewer examples than a choice wants
        return {}
    losses = {f"{one.steps} steps, {one.strength:g}": one.loss for one in choice.trials}
    return {"choice": [choice.steps, choice.strength], "losses": losses}


def run(split: str, rows: Sequence[str], *, draws: int, only: Sequence[str] | None, zoo: Path, python: str) -> None:
    """Compute what is missing, draw by draw."""
    opened = Zoo.open(zoo)
    base, length = opened.load_base(), opened.manifest.recipe.score_length
    pipeline, model = Pipeline.open("sg", opened, TextEncoder.load()), resolve_model(opened.manifest.base)
    tasks = [task for task in TaskSet.from_yaml(TASKS).split(split) if only is None or task.id in only]
    tasks.sort(key=lambda task: len(task.labels))  # SetFit's time grows with the number of classes
    begun = {task.id: pipeline.generate(Evidence(task.description), seed=0)[0].adapter for task in tasks}
    plan = [(draw, task) for draw in range(draws) for task in tasks]
    with (
        console.progress() as update,
        setfit_process(python, wanted=bool(SETFIT_SETTINGS.keys() & set(rows))) as setfit,
    ):
        for done, (draw, task) in enumerate(plan):
            update(f"draw {draw}", done, len(plan))
            case = Case(task, draw, begun[task.id], base, length)
            for row in rows:
                if str(draw) in kept().get(split, {}).get(row, {}).get(task.id, {}):
                    continue
                scored = judge(row, case, setfit, model)
                results = kept()
                results.setdefault(split, {}).setdefault(row, {}).setdefault(task.id, {})[str(draw)] = scored
                if setfit is not None:
                    results["versions"] = setfit.versions
                atomic_write(RESULTS, json.dumps(results) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--only", nargs="*", choices=ALL_ROWS, metavar="ROW", help=f"of: {'; '.join(ALL_ROWS)}")
    parser.add_argument("--tasks", nargs="*", metavar="ID", help="of the split (default: all)")
    parser.add_argument("--zoo", type=Path, default=Path("zoo/minilm"))
    parser.add_argument("--setfit-python", default=sys.executable, help="python of an environment with setfit")
    parser.add_argument("--show", action="store_true", help="print the tables of the figures kept")
    arguments = parser.parse_args()
    if not arguments.show:
        rows = arguments.only or [row for row in ALL_ROWS if row != SETFIT_ALL]
        run(
            arguments.split,
            rows,
            draws=arguments.draws,
            only=arguments.tasks,
            zoo=arguments.zoo,
            python=arguments.setfit_python,
        )
    ours = [row for row in ALL_ROWS if row not in SETFIT_SETTINGS]
    print(tables(arguments.split, ours, [*SETFIT_SETTINGS], against=PLAIN))


if __name__ == "__main__":
    main()
