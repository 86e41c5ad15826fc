"""DyLoRA: the ranks of a step, their gradients, and cut experts against the masked model."""

import pytest
import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.prefix import prefix
from loragen.adapters.rank_gate import GatedUpdate
from loragen.recipes.expert import Start
from loragen.recipes.methods.dylora import Dylora, NestedFactors
from loragen.recipes.setting import Setting
from loragen.recipes.train import train_expert

RECIPE = Dylora(r=4, steps=8, batch_size=8, learning_rate=3e-2, max_length=32, held_out=20, choices=2, window=2)


def start_of(base, seed=None):
    start = Start.random(base.sites(RECIPE.target_modules), RECIPE.r, rng=torch.Generator().manual_seed(0))
    if seed is None:
        return start
    rng = torch.Generator().manual_seed(seed)
    return Start(start.lora_A, {site: torch.randn(b.shape, generator=rng) / 4 for site, b in start.lora_B.items()})


def masked(trainee, rank, *, scaling):
    """The whole factors, scaled as the paper's code does, with ranks beyond ``rank`` masked."""
    root = (RECIPE.r / rank) ** 0.5
    mask = (torch.arange(RECIPE.r) < rank).float()
    pairs = zip(trainee.sites, trainee.lora_A, trainee.lora_B, strict=True)
    return {site: GatedUpdate(root * a, scaling * root * b, mask) for site, a, b in pairs}


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_a_cut_adapter_is_the_masked_model(base, task, rank):
    trainee = NestedFactors(start_of(base, seed=1), [rank], scaling=2.0)
    factors = {site: (a.detach(), b.detach()) for site, (a, b) in trainee.factors().items()}
    a, b = ({site: pair[i] for site, pair in factors.items()} for i in (0, 1))
    cut = prefix(Lora.from_factors(a, b, base_model_name_or_path=base.name), rank)
    ids = base.prepare(task.load_test(), max_length=32).ids[:6]
    met = []
    for updates in (masked(trainee, rank, scaling=2.0), trainee.updates(), base.factors_of(cut)):
        with torch.no_grad(), base.using(updates):
            met.append(base.states(ids))
    torch.testing.assert_close(met[1], met[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(met[2], met[0], rtol=1e-5, atol=1e-5)
    assert (met[0] - base.states(ids)).abs().max() > 1e-2


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("rank", [1, 3, 4])
def test_gradients_are_of_the_first_ranks_or_of_the_last_of_them(base, task, is_frozen, rank):
    data = base.prepare(task.load_train(), max_length=32).subset(range(8))
    trainee = NestedFactors(start_of(base, seed=1), [rank], is_frozen=is_frozen)
    with base.using(trainee.updates()):
        base.losses(data, contrast_weight=0)["loss"].backward()
    whole = NestedFactors(start_of(base, seed=1), [rank])
    with base.using(masked(whole, rank, scaling=1.0)):
        base.losses(data, contrast_weight=0)["loss"].backward()
    trained = torch.zeros(RECIPE.r, dtype=torch.bool)
    trained[rank - 1 if is_frozen else 0 : rank] = True
    for one, all_of in zip(trainee.parameters(), whole.parameters(), strict=True):
        rows, wanted = (p.grad if len(p) == RECIPE.r else p.grad.T for p in (one, all_of))
        assert rows[trained].abs().amax(1).min() > 0
        assert not rows[~trained].any()
        torch.testing.assert_close(rows[trained], wanted[trained], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("mode", ["all", "frozen"])
def test_each_step_has_the_rank_that_was_drawn_for_it(base, task, monkeypatch, mode):
    used, plain = [], NestedFactors.updates

    def watched(trainee):
        updates = plain(trainee)
        used.append({len(a) for a, _ in updates.values()})
        return updates

    monkeypatch.setattr(NestedFactors, "updates", watched)
    recipe = RECIPE.model_copy(update={"mode": mode})
    start = start_of(base)
    expert = train_expert(task, base, start, recipe)
    drawn = torch.randint(1, 5, (8,), generator=Setting.of(task, base, start, recipe).rng).tolist()
    assert used == [{rank} for rank in drawn]
    assert len(set(drawn)) > 2
    assert all(len(a) == 4 for a in expert.lora_A.values())
