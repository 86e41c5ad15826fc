"""LoRA-SB against what its equations say, with everything dense."""

from dataclasses import dataclass

import pytest
import torch

from loragen.adapters.adapter import Lora
from loragen.errors import ConfigError
from loragen.recipes.expert import Start
from loragen.recipes.gradients import mean_gradients
from loragen.recipes.methods.lora_sb import Core, LoraSB, first_updates, shared_bases, train_sb, truncated
from loragen.recipes.setting import Setting
from loragen.recipes.train import train_expert

SETTINGS = dict(r=4, steps=8, batch_size=8, learning_rate=2e-2, max_length=32, held_out=20, choices=2, window=3)


def recipe_of(**more):
    return LoraSB(**(SETTINGS | more))


def random_start(base, recipe):
    sites = base.sites(recipe.target_modules)
    return Start.random(sites, recipe.r, rng=torch.Generator().manual_seed(0))


def bases(base, tasks, recipe):
    return shared_bases(tasks, base, random_start(base, recipe), recipe)


def setting_of(base, task, recipe):
    return Setting.of(task, base, random_start(base, recipe), recipe)


@pytest.fixture
def setting(base, task):
    return setting_of(base, task, recipe_of())


@dataclass
class Dense:
    """A whole delta weight in use."""

    weight: torch.Tensor

    @property
    def out_features(self):
        return self.weight.shape[0]

    @property
    def in_features(self):
        return self.weight.shape[1]

    def __call__(self, x):
        return x @ self.weight.T


def test_the_first_update_is_the_first_step_of_adam(setting):
    recipe = recipe_of(first_step=0.01)
    gradients = mean_gradients(setting, recipe.batches)
    for site, update in first_updates(setting, recipe).items():
        weight = torch.nn.Parameter(torch.zeros_like(update))
        weight.grad = gradients[site]
        torch.optim.Adam([weight], lr=0.01, eps=1e-20).step()
        torch.testing.assert_close(update, weight.data, rtol=1e-4, atol=1e-7)


def test_its_size_is_given_or_the_first_learning_rate_of_the_training():
    published = {"first_step": None}
    assert recipe_of(steps=60, learning_rate=0.012, **published).step == pytest.approx(0.012 / 6)  # 6 steps warm up
    assert recipe_of(steps=2, **published).step == pytest.approx(2e-2)
    assert recipe_of(first_step=0.5).step == 0.5
    assert recipe_of(steps=60, learning_rate=0.06).step == recipe_of(steps=60, learning_rate=0.06, first_step=None).step


def test_training_begins_at_what_rank_r_holds_of_it(base, task):
    recipe = recipe_of(steps=2, choices=1, learning_rate=1e-12, first_step=0.01)  # so an expert shows where it began
    setting = setting_of(base, task, recipe)
    expert = train_sb(setting, recipe)
    for site, update in first_updates(setting, recipe).items():
        left, singular, right = torch.linalg.svd(update)
        wanted = (left[:, :4] * singular[:4]) @ right[:4]
        torch.testing.assert_close(expert.mean[site] @ expert.lora_A[site], wanted, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(expert.lora_A[site] @ expert.lora_A[site].T, torch.eye(4), atol=1e-5, rtol=0)


def test_the_gradient_of_the_core_meets_that_of_the_weight_best_without_a_factor(setting):
    """Of all R the one whose B R A is nearest to G, by least squares over dense matrices, is R's own gradient."""
    gradients = mean_gradients(setting, 2)
    cut = {site: truncated(g.sign(), 4) for site, g in gradients.items()}
    core = Core({site: (b, torch.zeros(4, 4), a) for site, (b, _, a) in cut.items()})
    for batch in setting.steps[:2]:
        with setting.base.using(core.updates()):
            torch.autograd.backward(setting.base.losses(batch, contrast_weight=0.0)["loss"] / 2)
    for site, parameter in zip(core.sites, core.cores, strict=True):
        b, _, a = cut[site]
        columns = torch.kron(b.contiguous(), a.T.contiguous())  # of vec(B R A), row by row
        nearest = torch.linalg.lstsq(columns, gradients[site].reshape(-1, 1)).solution.reshape(4, 4)
        torch.testing.assert_close(parameter.grad, nearest, rtol=1e-3, atol=1e-6)
    assert {id(p) for p in core.parameters() if p.requires_grad} == {id(p) for p in core.cores}


@pytest.mark.parametrize("basis", ["own", "zoo"])
def test_the_export_equals_the_trained_model(base, task, basis):
    recipe = recipe_of(basis=basis)
    start = bases(base, [task], recipe) if basis == "zoo" else random_start(base, recipe)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    expert = train_expert(task, base, start, recipe)
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    adapter = Lora.from_factors(expert.lora_A, expert.mean, base_model_name_or_path=base.name)
    assert adapter.norm() > 0
    texts = base.prepare(task.load_test(), max_length=32).ids[:6]

    updates = {site: Dense(expert.mean[site] @ a) for site, a in expert.lora_A.items()}
    with torch.no_grad(), base.using(updates):
        wanted = base.states(texts)
    with torch.no_grad(), base.adapted(adapter):
        torch.testing.assert_close(base.states(texts), wanted, rtol=1e-5, atol=1e-5)


# --- bases of a zoo ---


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    from models import word_task

    return word_task(tmp_path_factory.mktemp("tasks"), "meals", words=("bread", "soup"))


def test_shared_bases_are_singular_vectors_of_the_stacked_updates(base, task, other):
    recipe = recipe_of(r=3)
    found, start, seen = {}, random_start(base, recipe), []
    for one in (task, other):
        setting = Setting.of(one, base, start, recipe)
        found[one.id] = first_updates(setting, recipe)
    met = shared_bases([task, other], base, start, recipe, on_task=seen.append)
    assert seen == [1, 2]
    assert met.holds_bases
    assert not start.holds_bases
    for site in start.lora_B:
        updates = [found[one.id][site].double() for one in (task, other)]
        right = torch.linalg.svd(torch.cat(updates)).Vh[:3].float()
        left = torch.linalg.svd(torch.cat(updates, 1)).U[:, :3].float()
        torch.testing.assert_close((met.lora_A[site] @ right.T).abs(), torch.eye(3), rtol=0, atol=1e-2)
        torch.testing.assert_close((met.lora_B[site].T @ left).abs(), torch.eye(3), rtol=0, atol=1e-5)
        assert torch.equal(met.lora_A[site], met.lora_A[site].bfloat16().float())


def test_an_expert_of_a_shared_basis_stays_in_it_and_begins_at_its_own_first_update(base, task, other):
    recipe = recipe_of(basis="zoo", steps=2, choices=1, learning_rate=1e-12, first_step=0.01)
    start = bases(base, [task, other], recipe)
    setting = Setting.of(task, base, start, recipe)
    still, moved = train_sb(setting, recipe), train_expert(task, base, start, recipe_of(basis="zoo"))
    for site, update in first_updates(setting, recipe).items():
        a, b = start.lora_A[site], start.lora_B[site]
        torch.testing.assert_close(still.mean[site] @ a, b @ b.T @ update @ a.T @ a, rtol=1e-3, atol=1e-6)
        for expert in (still, moved):
            assert torch.equal(expert.lora_A[site], a)
            torch.testing.assert_close(b @ (b.T @ expert.mean[site]), expert.mean[site], rtol=1e-4, atol=1e-6)
        assert (moved.mean[site] - still.mean[site]).norm() > 0.01
    assert moved.held_out_losses[moved.steps] == min(moved.held_out_losses.values())


def test_a_start_without_bases_is_refused(base, task):
    recipe = recipe_of(basis="zoo")
    with pytest.raises(ConfigError, match=r"'frame: gradients'.*another start; build such a zoo"):
        train_expert(task, base, random_start(base, recipe), recipe)
    small = recipe_of(basis="zoo", r=3)
    with pytest.raises(ConfigError, match="orthonormal bases of rank 3 at most"):
        train_expert(task, base, bases(base, [task], recipe), small)


def test_sites_that_write_few_features_have_bases_of_a_smaller_rank(base, task, monkeypatch):
    from loragen.recipes.methods import lora_sb

    gradients = {"narrow": torch.randn(2, 16, generator=torch.Generator().manual_seed(0))}
    monkeypatch.setattr(lora_sb, "mean_gradients", lambda _setting, _batches: gradients)
    start = Start({"narrow": torch.zeros(4, 16)}, {"narrow": torch.zeros(2, 4)})
    monkeypatch.setattr(Setting, "of", lambda *_parts: None)
    met = shared_bases([task], base, start, recipe_of())
    assert (met.lora_A["narrow"].shape, met.lora_B["narrow"].shape) == ((2, 16), (2, 2))
    b, core, a = truncated(gradients["narrow"], 4)
    torch.testing.assert_close(b @ core @ a, gradients["narrow"])
