"""Ways to adapt a generated adapter to a task's unlabelled texts, compared on the validation tasks.

    python benchmarks/adaptation.py [--only ROW …]   # what is not yet in the table; some 5 min a row on one thread
    python benchmarks/adaptation.py --show           # the table again, from the figures kept

Each row begins at the adapter that SG-LoRA makes from the description, and is given 200 texts of the task's train file
without their labels, and the label names; "pseudo-labels right" are counted on these. Scores are of the first 200 texts
of the test file in random order. Figures go to benchmarks/results/adaptation.json, task by task.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F
from left_out_reads import unlabelled
from score_unseen import TASKS, labelled
from torch import Tensor

from loragen.adaptation.pseudo_labels import PseudoLabels, of_clusters, pseudo_labels
from loragen.adaptation.self_training import AdaptRecipe, joined
from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.losses import LOGIT_SCALE
from loragen.bases.tokenised import Readout, TaskData
from loragen.cli import console
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.workspace import shuffled
from loragen.generation import Pipeline
from loragen.recipes.expert import AdapterObjective, Start, trajectory
from loragen.recipes.few_shot import FewShotRecipe, FitPath, fit_path
from loragen.tasks.task_set import Task, TaskSet
from loragen.training.threads import one_thread
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/adaptation.json")
ORACLES = Path("benchmarks/oracles")
TEXTS, TEST_TEXTS = 200, 200
RECIPE = AdaptRecipe()
BASE, START, ORACLE = "base", "sg, description alone", "oracle"
Scored = dict[str, float]


@dataclass(frozen=True, eq=False)
class Case:
    """A task as the rows see it."""

    task: Task
    base: Base
    start: Lora
    texts: TaskData
    """Unlabelled; the targets are there to count right pseudo-labels alone."""
    test: TaskData
    others: Callable[[], list[Lora]]
    """Adapters of other generators and samples, for the teacher of several."""

    @cached_property
    def read(self) -> Readout:
        """The texts under the start."""
        return self.base.read(self.texts, self.start)

    @property
    def shares(self) -> Tensor:
        """True sizes of the classes."""
        counts = torch.bincount(self.texts.targets, minlength=len(self.texts.label_ids)) + 0.5
        return counts / counts.sum()

    def judged(self, adapter: Lora | None) -> Scored:
        """Scores of an adapter on the test texts."""
        found = labelled(self.base.score(self.test, adapter))
        return {"accuracy": found.accuracy, "knn_accuracy": found.knn_accuracy}

    def fitted(
        self,
        guess: PseudoLabels,
        *,
        share: float = RECIPE.share,
        strength: float = RECIPE.strength,
        recipe: FewShotRecipe = RECIPE.fit,
        texts: TaskData | None = None,
    ) -> Lora:
        """The start, fitted to the surest pseudo-labels."""
        chosen = replace(texts or self.texts, targets=guess.classes).subset(guess.surest(share))
        if len(set(chosen.targets.tolist())) < 2:
            return self.start
        return fit_path(self.start, chosen, self.base, recipe, (recipe.steps,)).at(recipe.steps, strength)


Teacher = Callable[[Case], PseudoLabels]


def own_predictions(case: Case) -> PseudoLabels:
    """What the start says."""
    return _guess(case, case.read.logits.softmax(1))


def clusters(case: Case) -> PseudoLabels:
    """Clusters alone, each text's nearest, without what neighbours say."""
    logits, texts = case.read.logits.double(), case.read.texts.double()
    centred = F.normalize(texts - texts.mean(0), dim=1)
    return _guess(case, of_clusters(centred, logits, logits.softmax(1), None, None).float())


def mixture(case: Case) -> PseudoLabels:
    """What loragen does."""
    return pseudo_labels(case.read)


def neighbours(case: Case, number: int = 10) -> PseudoLabels:
    """Predictions, each the mean over the nearest texts and itself."""
    nearest = (case.read.texts @ case.read.texts.T).topk(number + 1, dim=1).indices
    return _guess(case, case.read.logits.softmax(1)[nearest].mean(1))


def with_shares(case: Case, *, equal: bool) -> PseudoLabels:
    """The mixture, told the sizes of the classes: the true ones, or that all are equal."""
    return pseudo_labels(case.read, shares=torch.full_like(case.shares, 1 / len(case.shares)) if equal else case.shares)


def several(case: Case) -> PseudoLabels:
    """Mean of the mixtures of sg, topk, and three samples of icm."""
    read = [case.base.read(case.texts, other) for other in case.others()]
    return _guess(case, torch.stack([pseudo_labels(one).probabilities for one in (case.read, *read)]).mean(0))


def expanded_names(case: Case) -> PseudoLabels:
    """The mixture over label texts that begin with the description."""
    names = [f"{case.task.description} {name}" for name in case.task.labels]
    expanded = replace(case.texts, label_ids=case.base.outputs(names, max_length=RECIPE.fit.max_length))
    return pseudo_labels(case.base.read(expanded, case.start))


def _guess(case: Case, probabilities: Tensor) -> PseudoLabels:
    return PseudoLabels(probabilities, case.read.logits.argmax(1))


def information_maximisation(case: Case) -> Lora:
    """Low entropy for each text, high entropy of their mean (Liang et al. 2020, SHOT), without pseudo-labels."""
    start, recipe = Start.at(case.start), RECIPE.fit
    objective = _Information(case.base, start, train_a=False, contrast_weight=0.0)
    rng = torch.Generator().manual_seed(recipe.seed)
    steps = list(case.texts.batches(recipe.steps, recipe.batch_size, rng=rng))
    with one_thread():
        points = trajectory(objective, steps, recipe.learning_rate, seed=recipe.seed)
    means = {site: at[-recipe.window :].mean(0) for site, at in points.items()}
    return FitPath(case.start, start, {recipe.steps: means}).at(recipe.steps, RECIPE.strength)


class _Information(AdapterObjective):
    """Conditional less marginal entropy of the predictions."""

    def loss(self, batch: TaskData) -> dict[str, Tensor]:
        (base,) = self._base
        with base.using(self.factors()):
            p = (LOGIT_SCALE * base.embed(batch.ids) @ base.embed(batch.label_ids).T).softmax(1)
        return {"loss": torch.special.entr(p).sum(1).mean() - torch.special.entr(p.mean(0)).sum()}


def cut_texts(case: Case) -> Lora:
    """Pseudo-labels of whole texts, fitted through the first or the last half of each (consistency)."""
    guess, both = mixture(case), []
    for keep_first in (True, False):
        ids = [
            [*row[: 1 + (len(row) - 1) // 2], row[-1]] if keep_first else [row[0], *row[len(row) // 2 :]]
            for row in case.texts.ids
            if not isinstance(row, Path)
        ]
        chosen = replace(case.texts, ids=tuple(ids), targets=guess.classes)
        both.append(chosen.subset(guess.surest(RECIPE.share)))
    steps = RECIPE.fit.steps
    return fit_path(case.start, joined(*both), case.base, RECIPE.fit, (steps,)).at(steps, RECIPE.strength)


def two_rounds(case: Case) -> Lora:
    """The fit, and then a second one from there."""
    once = replace(case, start=case.fitted(mixture(case)))
    return once.fitted(mixture(once))


def chosen(case: Case) -> Lora | None:
    """Of base, topk, icm, sg and the fit, the one whose predictions hold most information on the texts."""

    def information(adapter: Lora | None) -> float:
        p = case.base.read(case.texts, adapter).logits.softmax(1)
        return float(torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum(1).mean())

    return max([None, *case.others()[:2], case.start, case.fitted(mixture(case))], key=information)


@dataclass(frozen=True)
class Row:
    """A teacher whose pseudo-labels are fitted, or another way to an adapter."""

    teacher: Teacher | None = None
    adapter: Callable[[Case], Lora | None] | None = None
    share: float = RECIPE.share
    number: int = TEXTS


ROWS: dict[str, Row] = {
    BASE: Row(adapter=lambda _case: None),
    START: Row(adapter=lambda case: case.start),
    "own predictions": Row(own_predictions),
    "three opinions (ships)": Row(mixture),
    "three opinions, 50 texts": Row(mixture, number=50),
    "three opinions, 1,000 texts": Row(mixture, number=1000),
    "three opinions, all texts fitted": Row(mixture, share=1.0),
    "three opinions, two rounds": Row(adapter=two_rounds),
    "three opinions, all the way": Row(adapter=lambda case: case.fitted(mixture(case), strength=1.0)),
    "three opinions, 30 steps": Row(adapter=lambda case: case.fitted(mixture(case), recipe=FewShotRecipe())),
    "three opinions, equal classes": Row(partial(with_shares, equal=True)),
    "three opinions, true sizes of classes": Row(partial(with_shares, equal=False)),
    "three opinions of several generators": Row(several),
    "three opinions, names after the description": Row(expanded_names),
    "three opinions, halves of texts": Row(adapter=cut_texts),
    "mean of ten neighbours": Row(neighbours),
    "clusters alone": Row(clusters),
    "information maximisation": Row(adapter=information_maximisation),
    "most informative of all": Row(adapter=chosen),
}


@dataclass(frozen=True)
class Bench:
    """What tasks are made into cases with."""

    zoo: Zoo
    encoder: TextEncoder
    base: Base
    pipelines: dict[str, Pipeline] = field(default_factory=dict)

    def made(self, name: str, task: Task, *, samples: int = 1) -> list[Lora]:
        """Adapters of a generator for a task."""
        if name not in self.pipelines:
            self.pipelines[name] = Pipeline.open(name, self.zoo, self.encoder)
        return [one.adapter for one in self.pipelines[name].generate(Evidence(task.description), samples=samples)]

    def case(self, task: Task, number: int) -> Case:
        """A task with some unlabelled texts."""
        texts = self.base.prepare(unlabelled(task, number), max_length=RECIPE.fit.max_length)
        test = self.base.prepare(shuffled(task), max_length=RECIPE.fit.max_length).first(TEST_TEXTS)

        def others() -> list[Lora]:
            return [*self.made("topk", task), *self.made("icm", task, samples=3)]

        return Case(task, self.base, self.made("sg", task)[0], texts, test, others)


def judge(row: Row, case: Case) -> Scored:
    """Scores of a row on a task."""
    if row.adapter is not None:
        return case.judged(row.adapter(case))
    assert row.teacher is not None
    guess = row.teacher(case)
    right = float((guess.classes == case.texts.targets).double().mean())
    return case.judged(case.fitted(guess, share=row.share)) | {"pseudo": right}


def kept() -> dict[str, dict[str, Scored]]:
    """Row → task → score by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def table() -> str:
    """The complete rows as Markdown: scores, the difference to the start, and the losses."""
    figures = kept()
    tasks = figures[START].keys()
    head = ["adapted by", "pseudo-labels right", "label text", "above the start", "worst", "lose over .02", "kNN"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name in (name for name in ROWS if figures.get(name, {}).keys() >= tasks):
        own = [figures[name][task] for task in tasks]
        above = [figures[name][task]["accuracy"] - figures[START][task]["accuracy"] for task in tasks]
        right = f"{mean(one['pseudo'] for one in own):.3f}" if "pseudo" in own[0] else ""
        error = stdev(above) / len(above) ** 0.5
        lines.append(
            f"| {name} | {right} | {mean(one['accuracy'] for one in own):.3f} | {mean(above):+.3f} ± {error:.3f} "
            f"| {min(above):+.3f} | {sum(one < -0.02 for one in above)} of {len(above)} "
            f"| {mean(one['knn_accuracy'] for one in own):.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=ROWS, metavar="ROW")
    parser.add_argument("--show", action="store_true", help="print the table of the last run")
    arguments = parser.parse_args()
    if arguments.show:
        print(table())
        return
    zoo = Zoo.open()
    bench = Bench(zoo, TextEncoder.load(), zoo.load_base())
    tasks = TaskSet.from_yaml(TASKS).split("validation")
    with console.progress() as update:
        for name in arguments.only or ROWS:
            for done, task in enumerate(tasks):
                update(name, done, len(tasks))
                figures = kept()
                if task.id not in figures.get(name, {}):
                    scores = judge(ROWS[name], bench.case(task, ROWS[name].number))
                    figures.setdefault(name, {})[task.id] = {key: round(value, 4) for key, value in scores.items()}
                    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
            update(name, len(tasks), len(tasks))
    print(table())


if __name__ == "__main__":
    main()
