import shutil

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import word_task

from loragen.adapters.adapter import Lora
from loragen.bases.losses import contrast_loss, label_text_loss
from loragen.errors import TaskError
from loragen.recipes.expert import AdapterObjective, ExpertRecipe, Start
from loragen.recipes.train import train_expert
from loragen.tasks.task_set import TaskSource
from loragen.training import lightning_fit

RECIPE = ExpertRecipe(
    r=2, steps=40, batch_size=16, learning_rate=3e-2, max_length=32, held_out=40, choices=4, window=6, snapshots=6
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def start(base):
    return Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=seeded())


@pytest.fixture(scope="module")
def expert(task, base, start):
    return train_expert(task, base, start, RECIPE)


def equal(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[site], two[site]) for site in one)


def loss_of(task, base, lora_A, lora_B):
    data = base.prepare(task.load_test(), max_length=32)
    with base.using({site: (lora_A[site], lora_B[site]) for site in lora_B}):
        texts, labels = base.encode(data.ids), base.encode(data.label_ids)
    return float(label_text_loss(texts, labels, data.targets))


# --- where training begins ------------------------------------------------------------------------------------------


def assert_frame(start):
    for a in start.lora_A.values():
        assert a.dtype == torch.float32
        assert torch.equal(a, a.bfloat16().float()), "what is trained over is what is stored"
        torch.testing.assert_close(a @ a.T, torch.eye(len(a)), rtol=0, atol=2**-7)


@given(st.integers(0, 2**31), st.integers(1, 5))
def test_a_random_start_has_orthonormal_rows_and_no_update(seed, r):
    sites = {"one": (7, 5), "two": (3, 64)}
    start = Start.random(sites, r, rng=seeded(seed))
    assert_frame(start)
    for site, (out_features, in_features) in sites.items():
        assert start.lora_A[site].shape == (r, in_features)
        assert torch.equal(start.lora_B[site], torch.zeros(out_features, r))
    assert equal(start.lora_A, Start.random(sites, r, rng=seeded(seed)).lora_A)


@given(st.integers(0, 2**31), st.sampled_from([0.25, 1.0, 16.0]))
def test_a_start_at_an_adapter_keeps_its_delta_weights(seed, scaling):
    rng = seeded(seed)
    lora_A = {"one": torch.randn(3, 8, generator=rng), "two": torch.randn(2, 6, generator=rng)}
    lora_B = {"one": torch.randn(5, 3, generator=rng), "two": torch.randn(7, 2, generator=rng)}
    adapter = Lora.from_factors(lora_A, lora_B, base_model_name_or_path=None, scaling=scaling)
    start = Start.at(adapter)
    assert_frame(start)
    for site in adapter.sites:
        error = start.lora_B[site] @ start.lora_A[site] - adapter.delta_weight(site)
        assert error.norm() <= 2**-7 * start.lora_B[site].norm()
    assert equal(start.from_zero().lora_A, start.lora_A)
    assert all(not b.any() and b.shape == start.lora_B[site].shape for site, b in start.from_zero().lora_B.items())


# --- an expert ------------------------------------------------------------------------------------------------------


def test_training_makes_the_task_easier(task, base, start, expert):
    before = loss_of(task, base, start.lora_A, start.lora_B)
    after = loss_of(task, base, expert.lora_A, expert.mean)
    assert after < 0.5 * before


def test_only_b_is_trained(start, expert):
    assert equal(expert.lora_A, start.lora_A)
    assert all(b.abs().sum() > 0 for b in expert.mean.values())


def test_the_base_stays_bit_for_bit(task, base, start):
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    train_expert(task, base, start, RECIPE.model_copy(update={"steps": 2}))
    assert equal(base.model.state_dict(), before)
    assert not base.model.training
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_mean_variance_and_snapshots_are_those_of_the_best_window(task, base, start, monkeypatch):
    trajectory = []

    def watched(objective, *args, on_step, **options):
        def step(number):
            on_step(number)
            trajectory.append({site: b.detach().clone() for site, (_, b) in objective.factors().items()})

        return fit(objective, *args, on_step=step, **options)

    fit, losses = lightning_fit.fit, iter([3.0, 1.0, 2.0, 4.0])
    monkeypatch.setattr(lightning_fit, "fit", watched)
    monkeypatch.setattr(AdapterObjective, "validation_loss", lambda *_: next(losses))
    expert = train_expert(task, base, start, RECIPE.model_copy(update={"snapshots": 3}))
    assert len(trajectory) == RECIPE.steps
    assert (expert.steps, expert.held_out_losses) == (20, {10: 3.0, 20: 1.0, 30: 2.0, 40: 4.0})
    for site, mean in expert.mean.items():
        points = torch.stack([step[site] for step in trajectory[20 - RECIPE.window : 20]])
        torch.testing.assert_close(mean, points.mean(0))
        unbiased = (points - points.mean(0)).square().sum(0) / 5
        torch.testing.assert_close(expert.variance[site], unbiased, rtol=1e-3, atol=1e-12)
        assert unbiased.max() > 1e-9
        assert torch.equal(expert.snapshots[site], points[[0, 2, 5]])


def test_the_length_is_the_one_that_did_best_on_the_held_out_slice(task, base, start, expert):
    losses = expert.held_out_losses
    assert list(losses) == [10, 20, 30, 40]
    assert losses[expert.steps] == min(losses.values())
    _, held_out = base.prepare(task.load_train(), max_length=32).split(40, rng=seeded())
    with base.using({site: (start.lora_A[site], b) for site, b in expert.mean.items()}):
        texts, labels = base.encode(held_out.ids), base.encode(held_out.label_ids)
    assert losses[expert.steps] == pytest.approx(float(label_text_loss(texts, labels, held_out.targets)), rel=1e-4)


def test_the_seed_decides(task, base, start, expert):
    again = train_expert(task, base, start, RECIPE)
    for name in ("mean", "variance", "snapshots"):
        assert equal(getattr(again, name), getattr(expert, name))
    assert again.held_out_losses == expert.held_out_losses
    other = train_expert(task, base, start, RECIPE.model_copy(update={"seed": 1}))
    assert not equal(other.mean, expert.mean)


def test_training_never_looks_at_the_test_file(task, base, start, expert, tmp_path):
    train = shutil.copy(task.source.train, tmp_path)
    alone = task.model_copy(update={"source": TaskSource(train=str(train), test=str(tmp_path / "missing.jsonl"))})
    assert equal(train_expert(alone, base, start, RECIPE).mean, expert.mean)
    with pytest.raises(TaskError):
        alone.load_test()


def test_the_shortest_training_has_a_mean_and_a_finite_variance(task, base, start):
    short = train_expert(task, base, start, RECIPE.model_copy(update={"steps": 2}))
    assert short.steps == 2
    assert all(variance.isfinite().all() for variance in short.variance.values())
    with pytest.raises(ValueError, match="steps"):
        ExpertRecipe(steps=1)  # one point has no variance


def test_too_few_examples_are_refused(base, start, tmp_path):
    with pytest.raises(TaskError, match=r"'few' has 9 training examples; at least 10"):
        train_expert(word_task(tmp_path, "few", train=9), base, start, RECIPE)
    train_expert(word_task(tmp_path, "enough", train=10), base, start, RECIPE.model_copy(update={"steps": 2}))


def test_contrast_is_added_with_its_weight(task, base, start):
    data = base.prepare(task.load_train(), max_length=32).subset(range(12))
    objective = AdapterObjective(base, start, train_a=False, contrast_weight=0.3)
    losses = {name: float(value.detach()) for name, value in objective.loss(data).items()}
    texts = base.encode(data.ids)
    assert losses["contrast"] == pytest.approx(float(contrast_loss(texts, data.targets)), rel=1e-4)
    assert losses["loss"] == pytest.approx(losses["label_text"] + 0.3 * losses["contrast"], rel=1e-5)
    assert objective.validation_loss(data, objective.factors()) == pytest.approx(losses["loss"], rel=1e-4)
