"""LoRA-Squeeze as a recipe: the ranks and lengths of its stages, and what each hands to the next."""

from itertools import pairwise

import pytest
import torch

from loragen.recipes.expert import Start
from loragen.recipes.methods import squeeze as method
from loragen.recipes.methods.squeeze import SqueezeRecipe, squeezed, train_squeeze
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, train_freely

SMALL = dict(r=2, steps=9, batch_size=8, learning_rate=2e-2, max_length=32, held_out=20, choices=2)


def setting_of(task, base, recipe, *, warm=False):
    sites = base.sites(recipe.target_modules)
    rng = torch.Generator().manual_seed(0)
    start = Start.random(sites, recipe.r, rng=rng)
    if warm:
        start = Start(
            start.lora_A, {site: 0.1 * torch.randn(b.shape, generator=rng) for site, b in start.lora_B.items()}
        )
    return Setting.of(task, base, start, recipe)


@pytest.fixture
def runs(monkeypatch):
    """Every run of a training: ranks of its factors by site, products before it, its steps and products after it."""
    found = []
    true_run = method.run

    def record(setting, trainee, steps, **options):
        before = products(trainee.factors())
        true_run(setting, trainee, steps, **options)
        ranks = {len(a) for a, _ in trainee.factors().values()}
        found.append((ranks, before, len(steps), products(trainee.factors())))

    monkeypatch.setattr(method, "run", record)
    return found


def products(factors):
    return {site: (b @ a).detach().cpu() for site, (a, b) in factors.items()}


def nearest(delta, rank):
    left, singular, right = torch.linalg.svd(delta, full_matrices=False)
    return left[:, :rank] * singular[:rank] @ right[:rank]


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        ({"stage": "post"}, [(16, 0, 60)]),
        ({"stage": "continued"}, [(16, 0, 40), (4, 40, 60)]),
        ({"stage": "continued", "continued_steps": 7, "source_rank": 9}, [(9, 0, 53), (4, 53, 60)]),
        ({"stage": "in"}, [(16, 0, 20), (8, 20, 40), (4, 40, 60)]),
        ({"stage": "in", "source_rank": 64, "steps": 9}, [(64, 0, 3), (16, 3, 6), (4, 6, 9)]),
        ({"stage": "in", "source_rank": 4}, [(4, 0, 20), (4, 20, 40), (4, 40, 60)]),
        ({"stage": "in", "steps": 2}, [(16, 0, 1), (8, 1, 1), (4, 1, 2)]),
        ({"stage": "continued", "steps": 2}, [(16, 0, 1), (4, 1, 2)]),
    ],
)
def test_ranks_and_lengths_of_the_stages(options, stages):
    assert SqueezeRecipe(**options).stages == stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_rank": 3}, "source_rank is 3, below the r of 4"),
        ({"stage": "in", "continued_steps": 5}, "does not apply to stage 'in'"),
        ({"stage": "continued", "continued_steps": 60}, "fewer than the 60 steps are wanted"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SqueezeRecipe(**options)


def test_post_is_the_nearest_of_what_was_trained_at_the_source_rank(base, task):
    recipe = SqueezeRecipe(**SMALL | {"choices": 1}, stage="post", source_rank=6)
    setting = setting_of(task, base, recipe, warm=True)
    grown = method._grown(
        {site: (a, setting.start.lora_B[site]) for site, a in setting.start.lora_A.items()}, 6, setting
    )
    assert all(
        torch.allclose(delta, setting.start.lora_B[site] @ setting.start.lora_A[site], atol=1e-6)
        for site, delta in products(grown).items()
    )
    start = Start({site: a for site, (a, _) in grown.items()}, {site: b for site, (_, b) in grown.items()})
    whole = train_freely(setting, FreeFactors(start))
    expert = train_squeeze(setting_of(task, base, recipe, warm=True), recipe)
    for site, a in expert.lora_A.items():
        assert (len(a), len(whole.lora_A[site])) == (2, 6)
        delta = whole.mean[site] @ whole.lora_A[site]
        torch.testing.assert_close(expert.mean[site] @ a, nearest(delta, 2), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(nearest(delta, 2), delta, atol=1e-3)


@pytest.mark.parametrize(
    ("stage", "wanted", "compared"),
    [("in", [(8, 3), (4, 3), (2, 3)], {6, 8, 9}), ("continued", [(8, 6), (2, 3)], {6, 8, 9})],
)
def test_every_stage_begins_at_the_nearest_of_the_last_and_lengths_are_those_at_r(
    base, task, runs, stage, wanted, compared
):
    recipe = SqueezeRecipe(**SMALL, stage=stage)
    expert = train_squeeze(setting_of(task, base, recipe), recipe)
    assert [(ranks, steps) for ranks, _, steps, _ in runs] == [({rank}, steps) for rank, steps in wanted]
    for (_, _, _, done), (ranks, begun, _, after) in pairwise(runs):
        for site, delta in done.items():
            torch.testing.assert_close(begun[site], nearest(delta, *ranks), atol=1e-5, rtol=1e-5)
            assert not torch.allclose(after[site], begun[site], atol=1e-4)
    assert set(expert.held_out_losses) == compared


def test_the_squeezed_adapter_itself_is_the_expert_where_going_on_makes_it_worse(base, task, runs, monkeypatch):
    recipe = SqueezeRecipe(**SMALL, stage="continued")
    setting = setting_of(task, base, recipe)
    true_run = method.run

    def spoil(setting, trainee, steps, **options):
        true_run(setting, trainee, steps, **options | {"learning_rate": None if len(steps) > 3 else 30.0})

    monkeypatch.setattr(method, "run", spoil)
    expert = train_squeeze(setting, recipe)
    assert expert.steps == 6
    for site, delta in runs[0][3].items():
        torch.testing.assert_close(expert.mean[site] @ expert.lora_A[site], nearest(delta, 2), atol=1e-5, rtol=1e-5)


def test_an_update_of_zero_trains_on_after_it_was_squeezed(base, task):
    recipe = SqueezeRecipe(**SMALL)
    setting = setting_of(task, base, recipe)
    lowered = method._lowered(FreeFactors(setting.start), 2, setting)
    assert all((a.norm(dim=1) > 0.5).all() and not b.any() for a, b in lowered.values())
    assert not any(a.any() for a, _ in squeezed(FreeFactors(setting.start).factors(), 2).values())


def test_a_source_rank_beyond_a_site_is_that_of_the_site(base, task, runs):
    recipe = SqueezeRecipe(**SMALL, source_rank=50, stage="continued", target_modules=("query", "output.dense"))
    expert = train_squeeze(setting_of(task, base, recipe), recipe)
    assert runs[0][0] == {16, 32}
    assert {len(a) for a in expert.lora_A.values()} == {2}
