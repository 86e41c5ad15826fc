"""How far to fit, chosen by cross-validation within the examples."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.errors import TaskError
from loragen.recipes import few_shot_choice
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, fit_path
from loragen.recipes.few_shot_choice import FOLDS, LEAST, FitChoice, Trial, can_choose, choose_fit, fit_chosen
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

RECIPE = FewShotRecipe(steps=12, learning_rate=5e-2, window=4)


@pytest.fixture(scope="module")
def zoo(toys) -> Zoo:
    return Zoo.open(toys / "zoo")


@pytest.fixture(scope="module")
def base(zoo) -> Base:
    return zoo.load_base()


@pytest.fixture(scope="module")
def task(toys) -> Task:
    return TaskSet.from_yaml(toys / "tasks.yaml")["plates"]


@pytest.fixture(scope="module")
def begun(zoo) -> Lora:
    return zoo.adapter("drinks")


def few(task: Task, base: Base, shots: int) -> TaskData:
    return base.prepare(task.load_train().few(shots, rng=torch.Generator().manual_seed(0)), max_length=32)


@pytest.fixture(scope="module")
def data(task, base) -> TaskData:
    return few(task, base, LEAST)


def deltas(adapter: Lora) -> Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


# --- the way of a fit ---


def test_the_way_ends_at_the_fit_and_begins_at_the_adapter(begun, data, base):
    path = fit_path(begun, data, base, RECIPE, (4, 12))
    assert torch.equal(deltas(path.at(12)), deltas(fit_examples(begun, data, base, RECIPE)))
    assert path.at(12, 0) is begun
    assert not torch.allclose(deltas(path.at(4)), deltas(path.at(12)))


def test_half_the_strength_is_half_the_way(begun, data, base):
    path = fit_path(begun, data, base, RECIPE, (12,))
    start = Lora.from_factors(path.start.lora_A, path.start.lora_B, base_model_name_or_path=None)
    begin, middle, end = (deltas(one) for one in (start, path.at(12, 0.5), path.at(12)))
    torch.testing.assert_close(middle, (begin + end) / 2, rtol=0, atol=0.02 * float((end - begin).abs().max()))


# --- the choice ---


def test_fewer_than_eight_of_a_class_are_fitted_as_ever(begun, task, base):
    data, steps, trial_steps = few(task, base, LEAST - 1), [], []
    assert not can_choose(data)
    fitted, choice = fit_chosen(begun, data, base, RECIPE, on_step=steps.append, on_trial_step=trial_steps.append)
    assert choice is None
    assert torch.equal(deltas(fitted), deltas(fit_examples(begun, data, base, RECIPE)))
    assert (steps, trial_steps) == ([*range(1, 13)], [])


def test_the_choice_is_the_trial_with_the_least_loss_and_the_fit_is_made_with_it(begun, data, base):
    steps, trial_steps = [], []
    fitted, choice = fit_chosen(begun, data, base, RECIPE, on_step=steps.append, on_trial_step=trial_steps.append)
    assert choice.chosen.loss == min(trial.loss for trial in choice.trials)
    settings = {(trial.steps, trial.strength) for trial in choice.trials}
    assert settings == {(0, 0.0), *((end, part) for end in (4, 8, 12) for part in (0.5, 1.0))}
    assert choice.strength > 0, "the task can be learnt"
    path = fit_path(begun, data, base, RECIPE, (choice.steps,))
    assert torch.equal(deltas(fitted), deltas(path.at(choice.steps, choice.strength)))
    assert (choice.folds, choice.examples) == (FOLDS, 16)
    assert (steps, trial_steps) == ([*range(1, 13)], [*range(1, 3 * 12 + 1)])


def test_trials_are_scored_on_examples_that_their_fit_has_not_seen(begun, data, base):
    choice = choose_fit(begun, data, base, RECIPE)
    recipe = RECIPE.model_copy(update={"batch_size": 21})
    logits = torch.zeros(16, 2)
    for train, held_out in few_shot_choice._parts(data.targets):
        assert sorted(train + held_out) == list(range(16))
        assert set(data.targets[held_out].tolist()) == {0, 1}
        fitted = fit_examples(begun, data.subset(train), base, recipe)
        logits[held_out] = base.read(data.subset(held_out), fitted).logits
    whole = next(trial for trial in choice.trials if (trial.steps, trial.strength) == (12, 1.0))
    assert whole.loss == pytest.approx(float(F.cross_entropy(logits, data.targets)), abs=1e-3)
    alone = next(trial for trial in choice.trials if trial.strength == 0)
    before = base.read(data, begun).logits
    assert alone.loss == pytest.approx(float(F.cross_entropy(before, data.targets)), abs=1e-3)


def test_an_adapter_that_no_fit_betters_is_left_alone(begun, data, base, monkeypatch):
    best = Trial(steps=0, strength=0, loss=0.1, accuracy=1)
    choice = FitChoice(steps=0, strength=0, folds=3, examples=16, trials=(best,))
    monkeypatch.setattr(few_shot_choice, "choose_fit", lambda *_, **__: choice)
    steps = []
    fitted, made = fit_chosen(begun, data, base, RECIPE, on_step=steps.append)
    assert (fitted, made, steps) == (begun, choice, [])


def test_of_many_examples_a_share_of_each_class_is_used(begun, data, base, monkeypatch):
    monkeypatch.setattr(few_shot_choice, "MOST", 4)
    many = data.subset([*range(16), *range(16)])
    choice = choose_fit(begun, many, base, RECIPE.model_copy(update={"steps": 2}))
    assert choice.examples == 16, "at least eight of each class"


def test_the_same_examples_give_the_same_choice(begun, data, base):
    short = RECIPE.model_copy(update={"steps": 3})
    assert choose_fit(begun, data, base, short) == choose_fit(begun, data, base, short)


def test_examples_of_one_label_are_refused(begun, data, base):
    one = data.subset((data.targets == 0).nonzero()[:, 0].tolist())
    with pytest.raises(TaskError, match="all of one label"):
        fit_chosen(begun, one, base, RECIPE)
