"""LoRAM as a recipe: it trains on a smaller model, and is zero where that has nothing."""

from dataclasses import replace

import pytest
import torch

from loragen.bases.pruning import index_map
from loragen.errors import ConfigError
from loragen.recipes.expert import Start
from loragen.recipes.methods import loram
from loragen.recipes.methods.loram import Loram
from loragen.recipes.setting import Setting
from loragen.recipes.train import train_expert

SETTINGS = dict(r=4, steps=8, batch_size=8, learning_rate=2e-2, max_length=32, held_out=20, choices=2)
DENSE = r"encoder\.layer\.\d\.(intermediate\.dense|output\.dense|attention\.output\.dense|attention\.self\.query)"


def start_of(base, recipe):
    return Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))


def test_pruned_features_get_zeros_and_the_others_are_trained(base, task):
    recipe = Loram(**SETTINGS, target_modules=DENSE, neurons=0.25, heads=0.5)
    expert = train_expert(task, base, start_of(base, recipe), recipe)
    kept, _ = index_map(base.model, base="tiny", base_hash="", neurons=0.25, heads=0.5)
    assert len(expert.mean) == 8
    for site in expert.mean:
        found = kept.sites[site]
        columns, rows = expert.lora_A[site].abs().sum(0) > 0, expert.mean[site].abs().sum(1) > 0
        assert tuple(columns.nonzero()[:, 0].tolist()) == (found.kept_in or tuple(range(found.in_features)))
        assert tuple(rows.nonzero()[:, 0].tolist()) == (found.kept_out or tuple(range(found.out_features)))


def test_it_trains_on_the_pruned_model_and_is_judged_on_the_full_one(base, task, monkeypatch):
    recipe = Loram(**SETTINGS, neurons=0.5)
    trained_on = []
    run = loram.run

    def spy(setting, *arguments, **options):
        trained_on.append(setting.base.number_of_parameters)
        run(setting, *arguments, **options)

    monkeypatch.setattr(loram, "run", spy)
    expert = train_expert(task, base, start_of(base, recipe), recipe)
    assert trained_on == [base.number_of_parameters - 2 * 16 * (2 * 16 + 1)]
    setting = Setting.of(task, base, start_of(base, recipe), recipe)
    with base.using({site: (expert.lora_A[site], b) for site, b in expert.mean.items()}):
        again = base.held_out_loss(setting.held_out, contrast_weight=0)
    assert expert.held_out_losses[expert.steps] == pytest.approx(again, abs=1e-6)


def test_without_pruning_it_is_the_training_of_both_factors(base, task):
    from loragen.recipes.methods.lora import LoraBoth

    own, plain = Loram(**SETTINGS, neurons=0), LoraBoth(**SETTINGS)
    one, other = (train_expert(task, base, start_of(base, recipe), recipe) for recipe in (own, plain))
    assert all(torch.equal(one.mean[site], other.mean[site]) for site in other.mean)


def test_what_was_trained_on_a_part_helps_the_whole(base, task):
    recipe = Loram(**SETTINGS | {"steps": 30, "choices": 1}, neurons=0.25)
    expert = train_expert(task, base, start_of(base, recipe), recipe)
    setting = Setting.of(task, base, start_of(base, recipe), recipe)
    assert expert.held_out_losses[expert.steps] < base.held_out_loss(setting.held_out, contrast_weight=0) - 0.1


def test_an_architecture_that_is_not_known_is_refused(base, task):
    recipe = Loram(**SETTINGS)
    strange = replace(base, model=torch.nn.Sequential(torch.nn.Linear(4, 4)))
    setting = replace(Setting.of(task, base, start_of(base, recipe), recipe), base=strange)
    with pytest.raises(ConfigError, match="is known for bert"):
        loram.train_loram(setting, recipe)
