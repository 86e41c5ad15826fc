"""Self-training of a toy adapter: what it gains, what it looks at, and when it leaves the adapter as it was."""

from dataclasses import replace

import pytest
import torch

from loragen.adaptation.self_training import AdaptRecipe, joined, self_train
from loragen.adapters.products import distance
from loragen.bases.scores import accuracy
from loragen.recipes.few_shot import FewShotRecipe, fit_path
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

RECIPE = AdaptRecipe(strength=1.0, fit=FewShotRecipe(steps=15, learning_rate=5e-2, window=5))


@pytest.fixture(scope="module")
def zoo(toys):
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def base(zoo):
    return zoo.load_base()


@pytest.fixture(scope="module")
def task(toys):
    return TaskSet.from_yaml(toys / "tasks.yaml")["plates"]


@pytest.fixture(scope="module")
def start(zoo):
    """Of another task, half as strong: it is right on some texts only."""
    return zoo.adapter("drinks")


@pytest.fixture(scope="module")
def texts(task, base):
    return base.prepare(task.load_train(), max_length=32)


def right(base, data, adapter) -> float:
    read = base.read(data, adapter)
    return accuracy(read.logits.argmax(1), data.targets)


def test_labels_of_the_texts_are_not_looked_at(start, texts, base):
    one = self_train(start, texts, base, RECIPE)
    other = self_train(start, replace(texts, targets=1 - texts.targets), base, RECIPE)
    assert distance(one.lora, other.lora) == 0
    assert distance(one.lora, start) > 0.01
    assert one.is_fitted


def test_it_is_fitted_to_the_classes_it_guessed(start, texts, base):
    made = self_train(start, texts, base, RECIPE)
    guessed = replace(texts, targets=made.guess.classes)
    assert right(base, guessed, made.lora) > 0.9
    assert torch.equal(made.before.logits, base.read(texts, start).logits)


def test_labelled_examples_lead_texts_without_labels(start, task, texts, base):
    few = task.load_train().few(4, rng=torch.Generator().manual_seed(0))
    labelled = base.prepare(few, max_length=32)
    made = self_train(start, texts, base, RECIPE, labelled=labelled)
    assert torch.equal(made.guess.classes[: len(labelled)], labelled.targets)
    wrong = self_train(start, texts, base, RECIPE, labelled=replace(labelled, targets=1 - labelled.targets))
    test = base.prepare(task.load_test(), max_length=32)
    assert right(base, test, made.lora) > right(base, test, wrong.lora)


def test_texts_of_one_class_alone_leave_the_adapter_as_it_is(start, texts, base):
    shares = torch.tensor([1 - 1e-6, 1e-6])
    made = self_train(start, texts.first(20), base, RECIPE, shares=shares)
    assert not made.is_fitted
    assert made.lora is start


def test_the_fit_sees_no_more_texts_than_are_allowed(start, texts, base, monkeypatch):
    seen = []

    def path(adapter, data, *rest, **options):
        seen.append(len(data))
        return fit_path(adapter, data, *rest, **options)

    monkeypatch.setattr("loragen.adaptation.self_training.fit_path", path)
    self_train(start, texts, base, RECIPE.model_copy(update={"most": 20}))
    self_train(start, texts, base, RECIPE.model_copy(update={"share": 1.0}))
    assert seen[0] <= 22
    assert seen[1] == len(texts)


def test_the_adapter_goes_part_of_the_way_to_its_fit(start, texts, base):
    whole, half = (self_train(start, texts, base, RECIPE.model_copy(update={"strength": s})).lora for s in (1.0, 0.5))
    for site in start.sites:
        between = (start.delta_weight(site) + whole.delta_weight(site)) / 2
        torch.testing.assert_close(half.delta_weight(site), between, atol=2e-3, rtol=0)


def test_sets_are_joined_in_order(texts):
    both = joined(texts.first(3), texts.first(2))
    assert both.ids == texts.ids[:3] + texts.ids[:2]
    assert torch.equal(both.targets, torch.cat([texts.targets[:3], texts.targets[:2]]))
