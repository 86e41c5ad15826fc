import math
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from models import word_task, write_tiny_encoder

from loragen.adapters.adapter import Lora
from loragen.bases.scores import Scores
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import Pipeline
from loragen.generators.base import DescriptionGenerator, Generation
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.train import train_expert

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from score_unseen import Row, few_of, mean_scores, means, recovered_gain, score_unseen

RECIPE = ExpertRecipe(r=2, steps=20, batch_size=16, learning_rate=3e-2, window=4)
METRICS = ("accuracy", "macro_f1", "cross_entropy", "knn_accuracy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="module")
def base(folder):
    return LabelTextEncoder.load(str(folder))


@pytest.fixture(scope="module")
def encoder(folder):
    return TextEncoder.load(str(folder))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks")
    made = [word_task(root, "drinks"), word_task(root, "meals", words=("bread", "soup"))]
    return [task.model_copy(update={"paraphrases": (f"{task.description} Say it.",)}) for task in made]


@pytest.fixture(scope="module")
def own(tasks, base):
    """Task → the adapter trained on it: what any generator aims at."""
    start = Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=torch.Generator().manual_seed(0))
    experts = {task.id: train_expert(task, base, start, RECIPE) for task in tasks}
    return {
        name: Lora.from_factors(expert.lora_A, expert.mean, base_model_name_or_path=None)
        for name, expert in experts.items()
    }


class Fixed(DescriptionGenerator):
    """Gives each description the adapter it is told to, and keeps what it was asked."""

    name: ClassVar[str] = "fixed"
    is_stochastic: ClassVar[bool] = False

    def __init__(self, adapters):
        self.adapters = adapters
        self.asked = []

    def generate(self, condition, *, rng, num_samples=1):
        self.asked.append((condition, rng.initial_seed()))
        return [Generation(self.adapter(condition.description, rng), ())] * num_samples

    def adapter(self, description, rng):
        return self.adapters[description]


class Drawn(Fixed):
    """Scales the adapter by a random number."""

    is_stochastic: ClassVar[bool] = True

    def adapter(self, description, rng):
        adapter = self.adapters[description]
        factor = torch.rand((), generator=rng)
        return Lora(adapter.settings, adapter.lora_A, {s: factor * b for s, b in adapter.lora_B.items()})


@pytest.fixture
def by_description(tasks, own):
    return {task.description: own[task.id] for task in tasks}


def score(tasks, generators, base, encoder, **options):
    pipelines = {name: Pipeline(name, None, encoder, generator) for name, generator in generators.items()}
    return score_unseen(tasks, pipelines, base, **{"seeds": (5, 6, 7), "max_length": 32} | options)


def test_chance_is_drawn_once_a_seed_and_certainty_once(tasks, base, encoder, by_description):
    fixed, drawn = Fixed(by_description), Drawn(by_description)
    rows = score(tasks, {"fixed": fixed, "drawn": drawn}, base, encoder)
    assert [(row.task, row.method, row.seed) for row in rows] == [
        (task, method, seed)
        for task in ("drinks", "meals")
        for method, seed in (("fixed", 5), ("drawn", 5), ("drawn", 6), ("drawn", 7))
    ]
    assert [seed for _, seed in fixed.asked] == [5, 5]
    assert [seed for _, seed in drawn.asked] == [5, 6, 7] * 2
    assert len({row.scores.cross_entropy for row in rows}) == 8, "each draw is its own adapter"
    assert score(tasks, {"fixed": fixed, "drawn": drawn}, base, encoder) == rows


def test_a_generator_is_told_the_first_description_and_no_more(tasks, base, encoder, by_description):
    fixed = Fixed(by_description)
    blind = [t.model_copy(update={"source": t.source.model_copy(update={"train": "/missing"})}) for t in tasks]
    score(blind, {"fixed": fixed}, base, encoder)
    for task, (condition, _) in zip(tasks, fixed.asked, strict=True):
        assert condition.description == task.description
        assert torch.equal(condition.embedding, encoder.encode([task.description])[0])


def test_rows_hold_the_scores_on_the_test_file_and_come_one_by_one(tasks, base, encoder, own, by_description):
    seen = []
    rows = score(
        tasks,
        {"fixed": Fixed(by_description)},
        base,
        encoder,
        fixed={"base": lambda _task: None},
        on_row=seen.append,
    )
    assert seen == rows
    for task in tasks:
        data = base.prepare(task.load_test(), max_length=32)
        met = {row.method: row.scores for row in rows if row.task == task.id}
        assert met == {"base": base.score(data), "fixed": base.score(data, own[task.id])}
        assert met["base"] != met["fixed"]


def test_the_oracle_recovers_all_and_the_base_nothing(tasks, base, encoder, own, by_description):
    rows = score(
        tasks,
        {"perfect": Fixed(by_description)},
        base,
        encoder,
        fixed={"base": lambda _task: None, "oracle": lambda task: own[task.id], "nothing": lambda _task: None},
    )
    for metric in METRICS:
        mean = means(rows, metric)
        assert mean["oracle"] != mean["base"], "the task can be learnt at all"
        assert recovered_gain(mean["perfect"], mean["base"], mean["oracle"]) == 1
        assert recovered_gain(mean["nothing"], mean["base"], mean["oracle"]) == 0


def test_means_are_taken_over_tasks_and_seeds():
    def row(task, method, seed, accuracy):
        return Row(task, method, seed, Scores(accuracy=accuracy, macro_f1=0, cross_entropy=1, knn_accuracy=0.5))

    rows = [row("a", "sg", 0, 0.1), row("a", "sg", 1, 0.2), row("b", "sg", 0, 0.6), row("a", "mean", 0, 0.9)]
    assert means(rows, "accuracy") == {"sg": pytest.approx(0.3), "mean": 0.9}
    assert means(rows, "knn_accuracy") == {"sg": 0.5, "mean": 0.5}
    assert means([], "accuracy") == {}


def test_mean_scores_have_four_digits_and_hold_what_methods_are_compared_by():
    scores = [
        Scores(accuracy=a, macro_f1=0, cross_entropy=1, knn_accuracy=k) for a, k in ((0.1, 1), (0.2, 0), (0.2, 0))
    ]
    assert mean_scores(scores) == {"accuracy": 0.1667, "knn_accuracy": 0.3333}


def test_few_examples_are_labelled_and_the_same_for_a_seed(tasks):
    few = few_of(tasks[0], 3, seed=0)
    assert len(few) == 3
    assert few.labels is not None
    assert few == few_of(tasks[0], 3, seed=0)
    assert few.texts != few_of(tasks[0], 3, seed=1).texts


def test_recovered_gain_is_a_share_of_what_the_oracle_gains():
    assert recovered_gain(0.6, 0.5, 0.9) == pytest.approx(0.25)
    assert recovered_gain(0.4, 0.5, 0.9) == pytest.approx(-0.25), "worse than the base"
    assert recovered_gain(1.0, 0.5, 0.9) == pytest.approx(1.25), "better than the oracle"
    assert math.isnan(recovered_gain(0.6, 0.5, 0.5))
