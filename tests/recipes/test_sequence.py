"""Sequences of tasks: what nested updates are, what the next task sees, and what a caller gets."""

from itertools import pairwise

import pytest
import torch
from families import FAMILIES, write_base
from models import word_task

from loragen.adapters.rank_gate import GatedUpdate, concatenated
from loragen.bases.open import open_base
from loragen.errors import ConfigError
from loragen.recipes import sequence
from loragen.recipes.expert import ExpertRecipe, Start
from loragen.recipes.gradients import mean_gradients
from loragen.recipes.registry import ROWS, recipe_from
from loragen.recipes.sequence import merge_sequence
from loragen.recipes.setting import Setting
from loragen.tasks.examples import Examples

SETTINGS = dict(r=2, steps=8, batch_size=8, learning_rate=3e-2, max_length=32, held_out=20, choices=2, window=2)


@pytest.fixture(scope="module")
def tasks(task, tmp_path_factory):
    folder = tmp_path_factory.mktemp("more")
    return (task, word_task(folder, "food", words=("bread", "soup")), word_task(folder, "air", words=("cold", "warm")))


def drawn(sites, r, seed):
    rng = torch.Generator().manual_seed(seed)
    return {
        site: (torch.randn(r, size[1], generator=rng) / 4, torch.randn(size[0], r, generator=rng) / 4)
        for site, size in sites.items()
    }


def test_nested_updates_are_the_concatenated_factors(base, task):
    sites = base.sites(("query", "value"))
    outer, inner = drawn(sites, 3, 0), drawn(sites, 2, 1)
    both = {site: concatenated([outer[site], inner[site]]) for site in sites}
    data = base.prepare(task.load_train(), max_length=32).subset(range(12))

    def losses():
        losses = base.losses(data, contrast_weight=0.3)
        return [*losses.values(), torch.tensor(base.held_out_loss(data, contrast_weight=0.3)), base.states(data.ids)]

    gated = {site: GatedUpdate(a, b, torch.ones(len(a))) for site, (a, b) in inner.items()}
    with torch.no_grad():
        with base.using(both):
            wanted = losses()
        for nested in (inner, gated):
            with base.using(outer), base.using(nested):
                met = losses()
            for one, other in zip(met, wanted, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
        with base.using(outer):
            assert (losses()[-1] - wanted[-1]).abs().max() > 1e-2


def test_a_base_that_keeps_its_lower_layers_keeps_them_under_the_outer_updates(tmp_path):
    write_base(tmp_path, "llama", num_hidden_layers=4)
    base = open_base(str(tmp_path), objective="causal_lm", prompt="{text}\nLabel:")
    sites = base.sites(FAMILIES["llama"].target_modules)
    outer = drawn(sites, 2, 0)
    inner = drawn({site: size for i, (site, size) in enumerate(sites.items()) if i >= len(sites) // 2}, 2, 1)
    data = base.prepare(Examples(("a soup b", "cold tea"), completions=("tea", "a b")), max_length=60)
    with base.using(outer | {site: concatenated([outer[site], pair]) for site, pair in inner.items()}):
        wanted = base.held_out_loss(data, contrast_weight=0)
    with base.using(outer):
        keeping = base.keeping_below(inner)
        assert keeping.lower is not None
        with keeping.using(inner):
            met = [keeping.held_out_loss(data, contrast_weight=0) for _ in range(2)]  # computed, and then kept
        assert keeping.lower.kept
    assert met == pytest.approx([wanted] * 2, rel=1e-4)


def test_gradients_of_the_base_see_the_outer_updates(base, task):
    recipe = ExpertRecipe(**SETTINGS)
    sites = base.sites(recipe.target_modules)
    setting = Setting.of(task, base, Start.random(sites, 2, rng=torch.Generator().manual_seed(0)), recipe)
    outer = drawn(sites, 2, 0)
    alone = mean_gradients(setting, 2)
    with base.using(outer):
        over = mean_gradients(setting, 2)
    site = next(iter(sites))
    assert (over[site] - alone[site]).norm() > 1e-2 * alone[site].norm()


@pytest.mark.parametrize("name", [row.name for row in ROWS])
def test_each_task_trains_over_the_sum_of_those_before(base, tasks, name, monkeypatch):
    recipe = recipe_from({"name": name, **SETTINGS})
    experts, seen, train = [], [], sequence.train_expert
    ids = base.prepare(tasks[0].load_test(), max_length=32).ids[:4]

    def watched(task, base, start, recipe):
        with torch.no_grad():
            seen.append(base.states(ids))
        experts.append(train(task, base, start, recipe))
        return experts[-1]

    monkeypatch.setattr(sequence, "train_expert", watched)
    before = {key: value.clone() for key, value in base.model.state_dict().items()}
    with torch.no_grad():
        left = [base.states(ids)]
    for number, merged in enumerate(merge_sequence(tasks, base, recipe), start=1):
        assert not any(module._forward_hooks for module in base.model.modules()), "nothing is in use outside"
        for site in merged.sites:
            dense = sum(one.mean[site] @ one.lora_A[site] for one in experts)
            torch.testing.assert_close(merged.delta_weight(site), dense, rtol=1e-4, atol=1e-6)
            assert len(merged.lora_A[site]) <= number * recipe.r
        with torch.no_grad(), base.adapted(merged):
            left.append(base.states(ids))
    assert len(experts) == number == 3
    for one, other in zip(seen, left, strict=False):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert all((one - other).abs().max() > 1e-4 for one, other in pairwise(left))
    assert all(torch.equal(value, before[key]) for key, value in base.model.state_dict().items())


def test_starts_are_fresh_and_the_seed_decides(base, tasks):
    recipe = ExpertRecipe(**SETTINGS)
    once, again = (list(merge_sequence(tasks[:2], base, recipe)) for _ in range(2))
    assert once[-1].files() == again[-1].files()
    for a in once[-1].lora_A.values():
        assert len(a) == 4
        assert torch.linalg.matrix_rank(a) == 4, "the second task has an A of its own"


def test_a_rank_that_no_site_can_have_is_refused(base, tasks):
    with pytest.raises(ConfigError, match="The rank is 17"):
        next(merge_sequence(tasks, base, ExpertRecipe(**SETTINGS | {"r": 17})))
