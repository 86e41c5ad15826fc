"""rsLoRA at a high rank: its scaling, and the modules that it trains."""

import math
from functools import partial

import pytest
import torch

from loragen.recipes.expert import Start
from loragen.recipes.methods.rslora_high import RsLoraHigh, train_rslora_high
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, TraineeObjective, train_freely

SMALL = dict(steps=4, batch_size=8, max_length=32, held_out=20, choices=2)


# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def setting_of(task, base, recipe):
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))
    return Setting.of(task, base, start, recipe)


def first_gradient_norm(setting, scaling):
    trainee = FreeFactors(setting.start, scaling=scaling)
    objective = TraineeObjective(setting.base, trainee, partial(setting.base.losses, contrast_weight=0))
    objective.loss(setting.steps[0])["loss"].backward()
    return float(torch.stack([b.grad.norm() for b in trainee.lora_B]).norm())


def test_the_first_gradients_of_all_ranks_are_alike_as_they_are_not_by_alpha_over_r(base, task):
    spread = {}
    for power in (0.5, 1.0):
        norms = [
            first_gradient_norm(setting_of(task, base, RsLoraHigh(**SMALL, r=r)), 16 / r**power) for r in (1, 4, 16)
        ]
        spread[power] = max(norms) / min(norms)
    assert spread[0.5] < 1.5
    assert spread[1.0] > 2.5


@pytest.mark.parametrize("alpha", [2.0, 16.0])
def test_training_is_that_of_both_factors_under_alpha_over_the_root_of_r(base, task, alpha):
    recipe = RsLoraHigh(**SMALL, r=9, alpha=alpha)
    expert = train_rslora_high(setting_of(task, base, recipe), recipe)
    setting = setting_of(task, base, recipe)
    same = train_freely(setting, FreeFactors(setting.start, scaling=alpha / math.sqrt(9)))
    assert all(torch.equal(expert.mean[site], b) for site, b in same.mean.items())
    assert any(b.any() for b in same.mean.values())


def test_all_linear_modules_but_poolers_and_heads():
    from models import tiny_bert, tiny_llama
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    from loragen.bases.linear_sites import find_sites

    for build in (tiny_bert, tiny_llama):
        model = get_peft_model(build(), LoraConfig(target_modules="all-linear")).base_model.model
        wanted = {name for name, module in model.named_modules() if isinstance(module, LoraLayer)} - {"pooler.dense"}
        assert find_sites(build(), "tiny", RsLoraHigh().target_modules).keys() == wanted
