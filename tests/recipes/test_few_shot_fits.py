"""Several fits at once: order, progress, the best of those drawn, and what is said."""

import pytest
import torch
import torch.nn.functional as F

from loragen.recipes.embedding_classifiers import LOGISTIC
from loragen.recipes.few_shot import FewShotRecipe
from loragen.recipes.few_shot_choice import FitChoice, Trial, fit_chosen
from loragen.recipes.few_shot_fits import COMPARING, CROSS_VALIDATING, FITTING, Fit, fit_all, losses_on
from loragen.recipes.few_shot_rivals import RivalScore
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo

RECIPE = FewShotRecipe(steps=3, learning_rate=3e-2, window=2, max_length=32)


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
def adapters(zoo):
    return [zoo.adapter(name) for name in ("drinks", "meals", "weather")]


def few(task, shots):
    return task.load_train().few(shots, rng=torch.Generator().manual_seed(0))


def weights(adapter):
    return adapter.delta_weight(adapter.sites[0])


def test_all_are_fitted_in_their_order_in_one_count_of_steps(adapters, task, base):
    told, examples = [], few(task, 8)
    fits = fit_all(adapters[:2], examples, base, RECIPE, progress=lambda *step: told.append(step))
    assert [fit.drawn for fit in fits] == [0, 1]
    data = base.prepare(examples, max_length=32)
    for fit, adapter in zip(fits, adapters, strict=False):
        wanted, choice = fit_chosen(adapter, data, base, RECIPE)
        assert torch.equal(weights(fit.adapter), weights(wanted))
        assert fit.choice == choice is not None
    assert [(done, total) for stage, done, total in told if stage == CROSS_VALIDATING] == [
        (n, 18) for n in range(1, 19)
    ]
    fitting = [(done, total) for stage, done, total in told if stage == FITTING]
    assert all(total == 6 for _, total in fitting)


def test_those_with_the_least_loss_on_the_examples_are_kept(adapters, task, base):
    examples, told = few(task, 3), []
    data = base.prepare(examples, max_length=32)
    losses = [float(F.cross_entropy(base.read(data, one).logits, data.targets)) for one in adapters]
    assert losses_on(adapters, data, base) == pytest.approx(losses, abs=1e-5)
    order = sorted(range(3), key=losses.__getitem__)
    assert order != [0, 1, 2], "as they were given is not as good"
    fits = fit_all(adapters, examples, base, RECIPE, keep=2, progress=lambda *step: told.append(step))
    assert [fit.drawn for fit in fits] == order[:2]
    assert [fit.choice for fit in fits] == [None, None]
    assert (COMPARING, 3, 3) in told
    assert told[-1] == (FITTING, 6, 6)


def test_nothing_is_compared_where_all_are_kept(adapters, task, base):
    told = []
    fit_all(adapters[:1], few(task, 3), base, RECIPE, keep=1, progress=lambda *step: told.append(step[0]))
    assert set(told) == {FITTING}


def test_notes_tell_of_an_adapter_left_alone_and_of_a_better_classifier(adapters):
    def fit(strength, accuracy):
        trial = Trial(steps=10, strength=strength, loss=0.5, accuracy=0.7)
        rival = RivalScore(method=LOGISTIC, over="base", accuracy=accuracy, error=0.05)
        return Fit(
            0,
            adapters[0],
            FitChoice(steps=10, strength=strength, folds=3, examples=16, trials=(trial,), rivals=(rival,)),
        )

    assert Fit(0, adapters[0]).notes == ()
    assert fit(1, 0.7).notes == ()
    assert "left as it was generated" in fit(0, 0.7).notes[0]
    (note,) = fit(0.5, 0.9).notes
    assert "bare base was right on 0.90 of those held out, label texts 0.70" in note
