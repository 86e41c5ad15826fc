"""CoDyRA: the schedule of its threshold, and the lengths that it compares."""

import pytest
import torch

from loragen.recipes.expert import Start
from loragen.recipes.methods.codyra import Codyra
from loragen.recipes.methods.sora import GatedFactors
from loragen.recipes.train import train_expert

RECIPE = Codyra(
    r=6, steps=12, batch_size=8, learning_rate=3e-2, max_length=32, held_out=20, choices=6, window=2, threshold=0.3
)


def trained(base, task, recipe):
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))
    return train_expert(task, base, start, recipe)


@pytest.mark.parametrize(
    ("levels", "dense", "wanted"),
    [
        (3, 0.5, [0] * 6 + [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]),
        (50, 0.5, [0] * 6 + [0.054, 0.102, 0.15, 0.204, 0.252, 0.3]),
        (1, 0.75, [0] * 9 + [0.3] * 3),
        (2, 0.0, [0.15] * 6 + [0.3] * 6),
    ],
)
def test_the_threshold_is_none_at_first_and_then_rises(base, task, monkeypatch, levels, dense, wanted):
    met = []
    monkeypatch.setattr(GatedFactors, "shrink", lambda _self, threshold: met.append(threshold))
    trained(base, task, RECIPE.model_copy(update={"levels": levels, "dense": dense}))
    assert met == pytest.approx(wanted)


def test_lengths_of_the_dense_part_are_not_compared_and_ranks_differ_between_sites(base, task):
    expert = trained(base, task, RECIPE)
    assert list(expert.held_out_losses) == [8, 10, 12]
    last = trained(base, task, RECIPE.model_copy(update={"choices": 1}))
    ranks = {len(a) for a in last.lora_A.values()}
    assert len(ranks) > 1
    assert max(ranks) <= 6


def test_the_optimiser_has_the_paper_s_betas(base, task, monkeypatch):
    seen = []
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, "AdamW", lambda *args, **kw: seen.append(kw) or plain(*args, **kw))
    trained(base, task, RECIPE)
    assert seen[0]["betas"] == (0.9, 0.9999)
    with pytest.raises(ValueError, match="less than 1"):
        Codyra(betas=(0.9, 1.0))
