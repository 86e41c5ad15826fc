"""PEFT's initialisations: the same function at first and in training as PEFT's own copy, over a base that stays."""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from families import FAMILIES, write_base, write_task

from loragen.bases.open import open_base
from loragen.errors import ConfigError
from loragen.recipes.expert import Start
from loragen.recipes.methods import peft_start
from loragen.recipes.methods.peft_start import Initialisation, PeftStart, begun_at, train_from_peft, with_peft_lora
from loragen.recipes.registry import recipe_from
from loragen.recipes.setting import Setting
from loragen.recipes.site_inputs import pooled, site_inputs

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
SETTINGS = dict(r=4, steps=6, batch_size=8, max_length=32, held_out=20, choices=2, window=2, batches=2)
KINDS = get_args(Initialisation)
MOVING = {"pissa", "pissa_niter_4", "pissa_niter_16", "olora", "corda"}
every_kind = pytest.mark.parametrize("kind", KINDS)


def recipe_of(kind, **more):
    alpha = more.pop("lora_alpha", None)
    return PeftStart(**{**SETTINGS, **more}, peft={"init_lora_weights": kind, "lora_alpha": alpha})


def setting_of(base, task, recipe):
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))
    return Setting.of(task, base, start, recipe)


def copied_base(base, made):
    """A base that computes through PEFT's copy of the model, its LoRA with it."""
    return replace(base, model=made.base_model.model)


@torch.no_grad()
def states(base, setting, updates=()):
    with base.using(dict(updates)):
        return base.states(setting.held_out.ids[:8])


@every_kind
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_the_copy_of_peft_and_the_base_with_its_update_are_one_function(base, task, kind, alpha):
    recipe = recipe_of(kind, lora_alpha=alpha)
    setting = setting_of(base, task, recipe)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    random = torch.get_rng_state()
    made = with_peft_lora(setting, recipe)
    trainee = begun_at(made, setting, recipe)
    assert torch.equal(random, torch.get_rng_state())
    assert trainee.takes_off_start is (kind in MOVING)
    met = states(base, setting, trainee.updates())
    torch.testing.assert_close(met, states(copied_base(base, made), setting), rtol=0, atol=1e-5)
    torch.testing.assert_close(met, states(base, setting), rtol=0, atol=1e-5)
    after = base.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.model.modules())


@every_kind
def test_training_goes_as_in_peft(base, task, kind):
    recipe = recipe_of(kind, lora_alpha=8.0)
    setting = setting_of(base, task, recipe)
    made = with_peft_lora(setting, recipe)
    trainee, there = begun_at(made, setting, recipe), copied_base(base, made)
    for parameters, model, updates in (
        (trainee.parameters(), base, trainee.updates),
        (made.parameters(), there, dict),
    ):
        optimizer = torch.optim.SGD([p for p in parameters if p.requires_grad], lr=0.2)
        for batch in setting.steps[:4]:
            optimizer.zero_grad()
            with model.using(updates()):
                model.losses(batch, contrast_weight=0.0)["loss"].backward()
            optimizer.step()
    met = states(base, setting, trainee.updates())
    torch.testing.assert_close(met, states(there, setting), rtol=0, atol=1e-4)
    assert (met - states(base, setting)).abs().max() > 1e-3, "nothing was learnt"


def test_mica_trains_a_alone(base, task):
    setting, recipe = setting_of(base, task, recipe_of("mica")), recipe_of("mica")
    expert = train_from_peft(setting, recipe)
    begun = begun_at(with_peft_lora(setting_of(base, task, recipe), recipe), setting, recipe)
    assert expert.energy_kept is None
    assert all(torch.equal(b, begun.factors()[site][1]) for site, b in expert.mean.items())
    assert all(not torch.equal(a, begun.factors()[site][0]) for site, a in expert.lora_A.items())


def first_factors(base, task, kind, **more):
    recipe = recipe_of(kind, **more)
    setting = setting_of(base, task, recipe)
    trainee = begun_at(with_peft_lora(setting, recipe), setting, recipe)
    pairs = zip(trainee.sites, trainee.lora_A, trainee.lora_B, strict=True)
    return setting, {site: (a.detach(), b.detach()) for site, a, b in pairs}


@pytest.mark.parametrize(("kind", "above"), [("pissa", 1.0001), ("pissa_niter_16", 1.02)])
def test_pissa_begins_at_the_best_approximation_of_the_weight(base, task, kind, above):
    _, factors = first_factors(base, task, kind, lora_alpha=8.0)
    for site, (a, b) in factors.items():
        weight = base.model.get_parameter(f"{site}.weight")
        least = float(torch.linalg.svdvals(weight)[4:].norm())
        assert least < float((weight - 2 * b @ a).norm()) * 1.0001 < above * 1.0001 * least


def test_eva_begins_at_the_directions_in_which_inputs_vary_most(base, task):
    setting, factors = first_factors(base, task, "eva", batches=6)
    inputs = pooled([example for batch in site_inputs(setting, 6) for example in batch])
    for site, (a, b) in factors.items():
        centred = inputs[site] - inputs[site].mean(0)
        torch.testing.assert_close(a @ a.T, torch.eye(4), rtol=0, atol=1e-4)
        most = float(torch.linalg.svdvals(centred)[:4].square().sum())  # by all batches; PEFT ends when it is near
        assert float((centred @ a.T).square().sum()) > 0.97 * most
        assert not b.any()


def test_inputs_of_sites_are_those_of_single_texts_without_padding(base, task):
    setting = setting_of(base, task, recipe_of("eva"))
    met = site_inputs(setting, 2)
    assert [len(batch) for batch in met] == [8, 8]
    site = next(iter(setting.start.lora_B))
    seen = []
    handle = base.model.get_submodule(site).register_forward_pre_hook(lambda _module, args: seen.append(args[0][0]))
    batch = setting.steps[1]
    with torch.no_grad():
        base.states([batch.ids[3]])
        base.states([batch.label_ids[int(batch.targets[3])]])
    handle.remove()
    torch.testing.assert_close(met[1][3][site], torch.cat(seen))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "clip"])
@pytest.mark.parametrize("kind", ["pissa", "corda", "eva", "orthogonal"])
def test_every_kind_of_base_takes_them(families, family, kind):
    base, task = families(family)
    recipe = recipe_of(kind, target_modules=FAMILIES[family].target_modules, objective=FAMILIES[family].objective)
    setting = setting_of(base, task, recipe)
    made = with_peft_lora(setting, recipe)
    trainee = begun_at(made, setting, recipe)
    with torch.no_grad():
        wanted = base.losses(setting.held_out, contrast_weight=0.0)["loss"]
        with base.using(trainee.updates()):
            met = base.losses(setting.held_out, contrast_weight=0.0)["loss"]
        theirs = copied_base(base, made).losses(setting.held_out, contrast_weight=0.0)["loss"]
    torch.testing.assert_close(met, wanted, rtol=0, atol=1e-4)
    torch.testing.assert_close(met, theirs, rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            base = open_base(str(write_base(root / "base", name, seed=1)), objective=FAMILIES[name].objective)
            made[name] = base, write_task(root / "tasks", name)
        return made[name]

    return get


def test_what_moves_the_base_otherwise_than_its_factors_say_is_refused(families):
    base, task = families("gpt2")  # PEFT takes its weights, kept as (in, out), for (out, in) here
    recipe = recipe_of("olora", target_modules=("attn.c_proj",), objective="causal_lm")
    setting = setting_of(base, task, recipe)
    with pytest.raises(ConfigError, match=r"moves the weight of .*c_proj by something else"):
        begun_at(with_peft_lora(setting, recipe), setting, recipe)
    recipe = recipe_of("olora", target_modules=("c_attn",), objective="causal_lm")
    setting = setting_of(base, task, recipe)
    with pytest.raises(ConfigError, match=r"c_attn|'olora'"):
        begun_at(with_peft_lora(setting, recipe), setting, recipe)


def test_ranks_that_an_initialisation_cannot_have_are_refused(base, task):
    narrow = r".*\d\.output\.dense"  # from 32 features to 16
    recipe = recipe_of("mica", r=20, target_modules=narrow)
    with pytest.raises(ConfigError, match=r"cannot initialise LoRA of rank 20 by 'mica' on .* Give another rank"):
        with_peft_lora(setting_of(base, task, recipe), recipe)
    recipe = recipe_of("pissa", r=20, target_modules=narrow)
    setting = setting_of(base, task, recipe)
    with pytest.raises(ConfigError, match=r"'pissa' gives .* the shapes \(16, 32\) and \(16, 16\), where \(20, 32\)"):
        begun_at(with_peft_lora(setting, recipe), setting, recipe)
    with pytest.raises(ValueError, match="'orthogonal' wants an even r, not 3"):
        recipe_of("orthogonal", r=3)


def test_eva_ends(base, task, monkeypatch):
    monkeypatch.setattr(peft_start, "_MOST_PASSES", 1)
    recipe = recipe_of("eva")
    with pytest.raises(ConfigError, match="have not settled in 1 batches"):
        with_peft_lora(setting_of(base, task, recipe), recipe)


def test_settings_are_read_as_they_stand_in_a_file():
    recipe = recipe_from({"name": "peft", "peft": {"init_lora_weights": "olora", "lora_alpha": 16}, "r": 8})
    assert (type(recipe), recipe.peft.init_lora_weights, recipe.scaling) == (PeftStart, "olora", 2.0)
    assert recipe_from({"name": "peft"}).peft.init_lora_weights == "pissa"
    assert recipe_from({"name": "peft", "peft": {"init_lora_weights": True}}).scaling == 1.0
    for wrong in ({"init_lora_weights": "loftq"}, {"init_lora_weights": False}, {"use_dora": True}):
        with pytest.raises(ValueError, match="peft"):
            recipe_from({"name": "peft", "peft": wrong})
