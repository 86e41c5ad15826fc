"""LoRA-GA: its start by two independent computations, PEFT's own among them, and its refusal of large ranks."""

import pytest
import torch
from torch import nn

from loragen.errors import ConfigError
from loragen.recipes.expert import Start
from loragen.recipes.gradients import mean_gradients
from loragen.recipes.methods.lora_ga import LoraGA, gradient_factors, gradient_start, train_lora_ga
from loragen.recipes.setting import Setting

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SETTINGS = dict(r=4, steps=6, batch_size=8, max_length=32, held_out=20, choices=2, window=2, batches=3)


def setting_of(base, task, recipe):
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))
    return Setting.of(task, base, start, recipe)


@pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")
@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_the_flavour_of_peft_is_what_peft_computes(scaling):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraGAConfig, preprocess_loraga

    torch.manual_seed(0)
    r, model = 3, nn.Sequential(nn.Linear(12, 20))  # 4 r is all of its singular values: PEFT's sketch is exact
    x, y, before = torch.randn(50, 12), torch.randn(50, 20), model[0].weight.detach().clone()
    own = torch.autograd.grad((model(x) - y).square().mean(), model[0].weight)[0]
    config = LoraConfig(
        r=r,
        lora_alpha=scaling * r,
        target_modules=["0"],
        init_lora_weights="lora_ga",
        lora_ga_config=LoraGAConfig(direction="ArB2r", scale="stable", stable_gamma=9),
    )
    preprocess_loraga(model, config, lambda: (model(x) - y).square().mean().backward())
    layer = get_peft_model(model, config).base_model.model[0]
    theirs = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
    a, b = gradient_factors(own, r, gamma=9, flavour="peft")
    # A singular vector has no sign of its own.
    torch.testing.assert_close(a * (a * theirs[0]).sum(1, keepdim=True).sign(), theirs[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b * (b * theirs[1]).sum(0).sign(), theirs[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(before - layer.base_layer.weight, scaling * theirs[1] @ theirs[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(10, 7), (7, 10), (8, 8)])
def test_the_flavour_of_the_paper_is_its_formula(shape):
    gradient, r, gamma = torch.randn(shape, generator=torch.Generator().manual_seed(0)), 3, 4.0
    a, b = gradient_factors(gradient, r, gamma=gamma, flavour="paper")
    size = shape[0] ** 0.5 / gamma  # the square of m^(1/4) / sqrt(gamma), m the features written
    rows = torch.linalg.eigh(gradient.double().T @ gradient.double()).eigenvectors.flip(1)[:, :r]
    columns = torch.linalg.eigh(gradient.double() @ gradient.double().T).eigenvectors.flip(1)[:, r : 2 * r]
    torch.testing.assert_close((a.T @ a).double(), size * rows @ rows.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((b @ b.T).double(), size * columns @ columns.T, rtol=1e-4, atol=1e-5)


def test_the_flavours_differ_in_singular_values_and_in_the_scale_of_a():
    gradient = torch.randn(10, 8, generator=torch.Generator().manual_seed(0))
    paper, peft = (gradient_factors(gradient, 2, gamma=16, flavour=flavour) for flavour in ("paper", "peft"))
    values = torch.linalg.svdvals(gradient)
    torch.testing.assert_close(peft[1], paper[1] * values[2:4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(peft[0] * 10**0.25 / 4, paper[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flavour", ["paper", "peft"])
def test_it_begins_at_the_mean_gradient_and_keeps_the_output(base, task, flavour):
    recipe = LoraGA(**SETTINGS, flavour=flavour, scaling=2.0)
    setting = setting_of(base, task, recipe)
    trainee = gradient_start(setting, recipe)
    for site, gradient in mean_gradients(setting, 3).items():
        a, b = gradient_factors(gradient, 4, gamma=16, flavour=flavour)
        both, scaled = trainee.factors()[site]
        torch.testing.assert_close(both.detach(), torch.cat([a, a]))
        torch.testing.assert_close(scaled.detach(), torch.cat([2 * b, -2 * b], dim=1))
    ids = setting.held_out.ids[:8]
    with torch.no_grad(), base.using(trainee.updates()):
        met = base.states(ids)
    torch.testing.assert_close(met, base.states(ids), rtol=0, atol=1e-5)
    expert = train_lora_ga(setting, recipe)
    assert 0 < expert.energy_kept <= 1


def test_a_rank_beyond_half_the_singular_values_is_refused(base, task):
    recipe = LoraGA(**SETTINGS | {"r": 9})
    with pytest.raises(ConfigError, match=r"takes 18 singular vectors .* maps 16 to 16 .* a rank of at most 8"):
        gradient_start(setting_of(base, task, recipe), recipe)
