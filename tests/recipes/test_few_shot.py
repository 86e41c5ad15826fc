"""Adapters fitted to a few examples: what changes, what stays, and what is refused."""

import pytest
import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.losses import label_text_loss
from loragen.bases.tokenised import TaskData
from loragen.errors import AdapterError, TaskError
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, prepare_examples
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

RECIPE = FewShotRecipe(steps=20, learning_rate=5e-2, window=5)


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
    """Of another task than the one that is fitted to."""
    return zoo.adapter("drinks")


@pytest.fixture(scope="module")
def data(task, base) -> TaskData:
    few = task.load_train().few(8, rng=torch.Generator().manual_seed(0))
    assert sorted(few.labels) == [0] * 8 + [1] * 8
    return base.prepare(few, max_length=32)


def deltas(adapter: Lora) -> Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


def loss(base: Base, adapter: Lora, data: TaskData) -> float:
    with base.adapted(adapter):
        return float(label_text_loss(base.encode(data.ids), base.encode(data.label_ids), data.targets))


def test_fitting_serves_the_task_and_leaves_the_adapter_it_began_at_alone(begun, data, task, base):
    met = deltas(begun)
    fitted = fit_examples(begun, data, base, RECIPE)
    assert torch.equal(deltas(begun), met)
    assert loss(base, fitted, data) < 0.8 * loss(base, begun, data)
    test = base.prepare(task.load_test(), max_length=32)
    before, after = (base.score(test, adapter) for adapter in (begun, fitted))
    assert after.cross_entropy < 0.6 * before.cross_entropy
    assert after.accuracy > before.accuracy


def test_it_begins_at_the_adapter_and_keeps_rank_base_and_what_it_reads_from(begun, data, base):
    still = fit_examples(begun, data, base, RECIPE.model_copy(update={"learning_rate": 1e-12}))
    # A is made orthonormal and stored in bfloat16 precision.
    torch.testing.assert_close(deltas(still), deltas(begun), rtol=0, atol=0.02 * float(deltas(begun).abs().max()))
    fitted = fit_examples(begun, data, base, RECIPE)
    assert fitted.settings.base_model_name_or_path == begun.settings.base_model_name_or_path
    assert [site.r for site in fitted.spec.sites] == [site.r for site in begun.spec.sites]
    for site in begun.sites:
        rows = torch.linalg.qr(begun.lora_A[site].float().T)[0]
        left = fitted.delta_weight(site) - fitted.delta_weight(site) @ rows @ rows.T
        assert left.norm() < 0.02 * fitted.delta_weight(site).norm()


def test_the_adapter_is_the_mean_over_the_last_steps(begun, data, base):
    steps = []
    ends = [
        fit_examples(begun, data, base, RECIPE.model_copy(update={"window": window}), on_step=steps.append)
        for window in (1, 20, 100)
    ]
    assert steps == [*range(1, 21)] * 3
    moved = [float((deltas(end) - deltas(begun)).norm()) for end in ends]
    assert moved[1] < 0.9 * moved[0]
    assert moved[2] == moved[1], "no more than there are"


def test_the_same_seed_gives_the_same_adapter(begun, data, base):
    short = RECIPE.model_copy(update={"steps": 4, "batch_size": 4})
    one, again, other = (
        deltas(fit_examples(begun, data, base, short.model_copy(update={"seed": seed}))) for seed in (0, 0, 1)
    )
    torch.testing.assert_close(one, again, rtol=0, atol=1e-6)
    assert (one - other).norm() > 1e-3 * one.norm()


def test_fewer_examples_than_a_batch_are_one_batch(begun, data, base):
    two = data.subset([data.targets.tolist().index(label) for label in (0, 1)])
    fitted = fit_examples(begun, two, base, RECIPE)
    assert loss(base, fitted, two) < loss(base, begun, two)


def test_over_a_small_base_the_fit_takes_one_thread_and_gives_the_others_back(begun, data, base):
    before, met = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        short = RECIPE.model_copy(update={"steps": 1})
        fit_examples(begun, data, base, short, on_step=lambda _: met.append(torch.get_num_threads()))
        assert (met, torch.get_num_threads()) == ([1], 2)
    finally:
        torch.set_num_threads(before)


def test_examples_of_one_label_are_refused(begun, data, base):
    with pytest.raises(TaskError, match="all of one label; give some of at least two"):
        fit_examples(begun, data.subset((data.targets == 0).nonzero()[:, 0].tolist()), base, RECIPE)


def test_an_adapter_of_another_base_is_refused(tiny_zoo, data, base):
    with pytest.raises(AdapterError, match="made for another base model"):
        fit_examples(tiny_zoo.adapter("bank"), data, base, RECIPE)


# --- examples -------------------------------------------------------------------------------------------------------


def test_examples_keep_the_order_of_the_labels_named(base):
    examples = Examples(
        ("soup", "tea", "soup"), ("bread", "warm", "cold"), labels=(2, 0, 2), label_names=("no", "maybe", "yes")
    )
    data = prepare_examples(examples, base, max_length=16)
    assert data.targets.tolist() == [2, 0, 2]
    assert list(data.label_ids) == base.tokenize(("no", "maybe", "yes"), max_length=16)
    assert list(data.ids) == base.tokenize(examples.texts, examples.pairs, max_length=16)


@pytest.mark.parametrize("names", [(), ("yes", "no")])
def test_examples_without_labels_are_refused(base, names):
    with pytest.raises(TaskError, match=r"have no labels.*column 'label'"):
        prepare_examples(Examples(("soup", "tea"), label_names=names), base, max_length=16)
