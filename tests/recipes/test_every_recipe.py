"""What every recipe promises: an adapter of at most the rank asked for, over the base as it was, as PEFT reads it."""

from pathlib import Path

import pytest
import torch

from loragen.adapters.adapter import Lora
from loragen.bases.pretrained import load_pretrained
from loragen.recipes.expert import Start
from loragen.recipes.registry import ROWS, recipe_from, rows
from loragen.recipes.setting import Setting
from loragen.recipes.train import train_expert

SETTINGS = dict(r=4, steps=8, batch_size=8, learning_rate=2e-2, max_length=32, held_out=20, choices=2, window=3)
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
every_recipe = pytest.mark.parametrize("name", [row.name for row in ROWS])


def recipe_of(name, **more):
    return recipe_from({"name": name, **SETTINGS, **more})


def start_of(base, recipe):
    sites = base.sites(recipe.target_modules)
    return Start.random(sites, recipe.r, rng=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained(base, task):
    """Recipe → its expert, and a hash of the base's weights before and after."""
    found = {}
    for row in ROWS:
        recipe = recipe_of(row.name)
        before = {name: value.clone() for name, value in base.model.state_dict().items()}
        expert = train_expert(task, base, start_of(base, recipe), recipe)
        found[row.name] = expert, before, {name: value.clone() for name, value in base.model.state_dict().items()}
    return found


def lora_of(expert, base):
    return Lora.from_factors(expert.lora_A, expert.mean, base_model_name_or_path=base.name, task_type=expert.task_type)


@every_recipe
def test_the_base_stays_bit_for_bit(trained, base, name):
    _, before, after = trained[name]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module._forward_hooks for module in base.model.modules())
    assert all(parameter.grad is None for parameter in base.model.parameters())


@every_recipe
def test_the_rank_is_at_most_what_was_asked_for_and_something_was_learnt(trained, base, name):
    expert, _, _ = trained[name]
    adapter = lora_of(expert, base)
    assert all(site.r <= SETTINGS["r"] for site in adapter.spec.sites)
    assert adapter.norm() > 0
    assert expert.held_out_losses[expert.steps] == min(expert.held_out_losses.values())


@every_recipe
def test_peft_gives_what_the_trained_model_gives(trained, base, task, name, tmp_path):
    from peft import PeftModel

    expert, _, _ = trained[name]
    adapter = lora_of(expert, base)
    adapter.save(tmp_path / "adapter")
    texts = base.prepare(task.load_test(), max_length=32).ids[:6]
    with torch.no_grad(), base.using({site: (expert.lora_A[site], b) for site, b in expert.mean.items()}):
        wanted = base.states(texts)
    fresh = load_pretrained(base.name, Path(base.name), "AutoModel", dtype=torch.float32, use="a test").model
    wrapped = PeftModel.from_pretrained(fresh, tmp_path / "adapter").eval()
    lengths = [len(row) for row in texts]
    ids = torch.zeros(len(texts), max(lengths), dtype=torch.long)
    for row, own in zip(ids, texts, strict=True):
        row[: len(own)] = torch.tensor(own)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        hidden = wrapped(input_ids=ids, attention_mask=mask).last_hidden_state
    met = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    torch.testing.assert_close(met, wanted, rtol=1e-5, atol=1e-5)


@every_recipe
def test_the_seed_decides(base, task, name):
    recipe = recipe_of(name, steps=3, choices=1)
    one, again = (train_expert(task, base, start_of(base, recipe), recipe) for _ in range(2))
    assert all(torch.equal(one.mean[site], again.mean[site]) for site in one.mean)
    assert all(torch.equal(one.lora_A[site], again.lora_A[site]) for site in one.lora_A)


@every_recipe
def test_an_expert_that_keeps_the_frame_has_its_start_s_a(trained, base, name):
    expert, _, _ = trained[name]
    start = start_of(base, recipe_of(name))
    keeps = rows()[name].keeps_frame
    assert bool(expert.snapshots) is keeps
    if keeps:
        assert all(torch.equal(a, start.lora_A[site]) for site, a in expert.lora_A.items())


def test_settings_are_those_of_the_recipe_that_they_name():
    with pytest.raises(ValueError, match="no recipe 'lora_x'; choose one of lora, lora_both"):
        recipe_from({"name": "lora_x"})
    with pytest.raises(ValueError, match="settings of the recipe 'lora'"):
        type(recipe_from({}))(name="lora_both")
    with pytest.raises(ValueError, match="extra"):
        recipe_from({"name": "lora", "scaling": 2.0})
    assert recipe_from({"name": "lora_both", "scaling": 2.0}).scaling == 2.0


@every_recipe
def test_settings_survive_yaml(name):
    from loragen.zoo.build_config import ZooConfig

    start = {"start": "zero", "frame": "random"}
    config = ZooConfig.model_validate(
        {"name": "z", "out": "o", "base": "b", "tasks": "t", "recipe": {"name": name}, **start}
    )
    again = ZooConfig.model_validate(config.model_dump(mode="json"))
    assert again == config
    assert type(again.recipe) is rows()[name].settings


def test_a_recipe_with_a_start_of_its_own_wants_no_other(monkeypatch):
    from dataclasses import replace

    from loragen.recipes import registry
    from loragen.zoo.build_config import ZooConfig

    monkeypatch.setattr(registry, "ROWS", tuple(replace(row, makes_start=True) for row in ROWS))
    with pytest.raises(ValueError, match="'lora' begins at factors of its own; give 'start: zero' and 'frame: random'"):
        ZooConfig.model_validate({"name": "z", "out": "o", "base": "b", "tasks": "t"})


def test_the_batches_of_a_setting_come_from_outside_the_held_out_slice(base, task):
    recipe = recipe_of("lora")
    setting = Setting.of(task, base, start_of(base, recipe), recipe)
    held = {tuple(row) for row in setting.held_out.ids}
    assert held
    assert not any(tuple(row) in held for batch in setting.steps for row in batch.ids)
    assert setting.lengths == [4, 8]
