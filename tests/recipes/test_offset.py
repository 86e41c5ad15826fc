"""Factors with an offset: the published way, over moved weights, gives the same; and what the cut of the rank keeps."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.offset import OffsetFactors, cut_to_rank, train_offset
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, run
from loragen.tasks.task_set import Task
from loragen.zoo.card import Card, Manifest

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
RECIPE = ExpertRecipe(r=3, steps=6, batch_size=8, max_length=32, held_out=20, choices=2, window=2)
SCALING = 2.0


@pytest.fixture(scope="module")
def setting(base, task):
    start = Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=torch.Generator().manual_seed(0))
    return Setting.of(task, base, start, RECIPE)


@pytest.fixture(scope="module")
def first(setting):
    """Site → factors that change the output a lot."""
    rng = torch.Generator().manual_seed(1)
    sizes = setting.base.sites(RECIPE.target_modules)
    return {
        site: (0.4 * torch.randn(3, size[1], generator=rng), 0.4 * torch.randn(size[0], 3, generator=rng))
        for site, size in sizes.items()
    }


def sgd(trainee):
    return lambda learning_rate: torch.optim.SGD(trainee.parameters(), lr=learning_rate)


@torch.no_grad()
def states(base, updates, setting):
    with base.using(updates):
        return base.states(setting.held_out.ids[:8])


def moved(base, factors):
    """A base whose weights are moved by what factors would add at first."""
    model = copy.deepcopy(base.model)
    with torch.no_grad():
        for site, (a, b) in factors.items():
            model.get_submodule(site).weight -= SCALING * b @ a
    return replace(base, model=model)


def test_the_output_is_kept_at_first(setting, first):
    base = setting.base
    trainee = OffsetFactors(first, scaling=SCALING, takes_off_start=True)
    plain = states(base, {}, setting)
    torch.testing.assert_close(states(base, trainee.updates(), setting), plain, rtol=0, atol=1e-5)
    without = OffsetFactors(first, scaling=SCALING, takes_off_start=False)
    assert (states(base, without.updates(), setting) - plain).abs().max() > 0.1


def test_training_over_moved_weights_gives_the_same_function(setting, first):
    base, there = setting.base, moved(setting.base, first)
    offset = OffsetFactors(first, scaling=SCALING, takes_off_start=True)
    start = Start({site: a for site, (a, _) in first.items()}, {site: SCALING * b for site, (_, b) in first.items()})
    published = FreeFactors(start, scaling=SCALING)
    run(setting, offset, setting.steps, optimizer=sgd(offset), learning_rate=0.2)
    run(replace(setting, base=there), published, setting.steps, optimizer=sgd(published), learning_rate=0.2)
    met, wanted = states(base, offset.updates(), setting), states(there, published.updates(), setting)
    torch.testing.assert_close(met, wanted, rtol=0, atol=1e-4)
    assert (wanted - states(base, {}, setting)).abs().max() > 0.01, "nothing was learnt"
    converted, energy = cut_to_rank(offset.factors(), 2 * RECIPE.r)
    assert energy == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(states(base, converted, setting), wanted, rtol=0, atol=1e-4)


def test_the_offset_is_not_trained_and_b_can_be_left_out(first):
    offset = OffsetFactors(first, scaling=SCALING, takes_off_start=True, trains_b=False)
    assert [p.shape[0] for p in offset.parameters() if p.requires_grad] == [3] * len(first)
    assert sum(p.numel() for p in offset.parameters()) == sum(a.numel() + b.numel() for a, b in first.values())


def test_an_expert_says_what_its_rank_holds(setting, first):
    expert = train_offset(setting, OffsetFactors(first, scaling=SCALING, takes_off_start=True))
    again = OffsetFactors(first, scaling=SCALING, takes_off_start=True)
    kept = {}

    def energy(step):
        if step in setting.lengths:
            kept[step] = dense_energy(again.factors(), RECIPE.r)

    run(setting, again, setting.steps, on_step=energy)
    assert expert.energy_kept == pytest.approx(kept[expert.steps], abs=1e-5)
    assert 0.3 < expert.energy_kept < 1
    assert {len(a) for a in expert.lora_A.values()} == {3}
    assert train_offset(setting, OffsetFactors(first, scaling=1.0, takes_off_start=False)).energy_kept is None


@torch.no_grad()
def dense_energy(factors, r):
    values = [torch.linalg.svdvals((b @ a).double()).square() for a, b in factors.values()]
    return float(sum(v[:r].sum() for v in values) / sum(v.sum() for v in values))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(2, 8), st.integers(2, 8), st.integers(0, 1000))
def test_the_cut_is_the_nearest_of_its_rank(r, rank, out, width, seed):
    rng = torch.Generator().manual_seed(seed)
    factors = {
        site: (torch.randn(rank, width, generator=rng), torch.randn(out, rank, generator=rng))
        for site in ("a.x", "b.x")
    }
    cut, energy = cut_to_rank(factors, r)
    assert energy == pytest.approx(dense_energy(factors, r), abs=1e-5)
    for site, (a, b) in factors.items():
        left, values, right = torch.linalg.svd((b @ a).double(), full_matrices=False)
        wanted = left[:, :r] * values[:r] @ right[:r]
        assert len(cut[site][0]) <= r
        torch.testing.assert_close((cut[site][1] @ cut[site][0]).double(), wanted, rtol=1e-3, atol=1e-4)


def test_the_cut_of_nothing_loses_nothing():
    cut, energy = cut_to_rank({"a.x": (torch.zeros(4, 6), torch.zeros(5, 4))}, 2)
    assert energy == 1
    assert float((cut["a.x"][1] @ cut["a.x"][0]).abs().max()) == 0


@pytest.mark.parametrize("energy", [None, 0.12345678])
def test_the_card_has_it(energy):
    expert = Expert({}, {}, {}, {}, steps=2, energy_kept=energy)
    manifest = Manifest.model_validate(
        dict(name="z", base="b", base_hash="", frame="random", start="zero", recipe=RECIPE, multitask={})
    )
    source = {"train": "train.jsonl", "test": "test.jsonl"}
    task = Task.model_validate(dict(id="t", description="d", labels=("x", "y"), source=source, licence="CC0"))
    card = Card.of(task, expert, manifest, split="s", seconds=1.0, dtype="float32", versions={})
    assert card.provenance.energy_kept == (None if energy is None else 0.123457)
