"""SoRA: the gate's step against its formula, and what is saved against the gated model."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.adapter import Lora
from loragen.recipes.expert import Start
from loragen.recipes.methods.sora import GatedFactors, Sora, level_of, train_sora
from loragen.recipes.setting import Setting
from loragen.recipes.train import train_expert

RECIPE = Sora(r=6, steps=12, batch_size=8, learning_rate=3e-2, max_length=32, held_out=20, choices=2, window=2)


def setting_of(base, task, recipe=RECIPE):
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=torch.Generator().manual_seed(0))
    return Setting.of(task, base, start, recipe)


@pytest.fixture
def setting(base, task):
    return setting_of(base, task)


def ranks(factors):
    return {site: len(a) for site, (a, _) in factors.items()}


def learnt(trainee, seed=0):
    """Give B values, as training would."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for b in trainee.lora_B:
            b.copy_(torch.randn(b.shape, generator=rng) / 4)


@given(st.integers(0, 10**6), st.floats(0, 2))
def test_a_step_of_the_gate_is_the_proximal_step_of_its_l1_norm(seed, threshold):
    gate = torch.randn(9, generator=torch.Generator().manual_seed(seed))
    trainee = object.__new__(GatedFactors)
    torch.nn.Module.__init__(trainee)
    trainee.gate = torch.nn.ParameterList([gate.clone()])
    trainee.shrink(threshold)
    (met,) = trainee.gate
    torch.testing.assert_close(met.data, gate.sign() * (gate.abs() - threshold).clamp(min=0))
    # The minimum of threshold · |z| + (z − g)² / 2, sought on a grid.
    grid = torch.linspace(-5, 5, 20001)
    best = grid[(threshold * grid.abs()[:, None] + (grid[:, None] - gate) ** 2 / 2).argmin(0)]
    torch.testing.assert_close(met.data, best, rtol=0, atol=1e-3)


def test_what_is_saved_is_the_gated_model_without_the_ranks_that_were_cut(setting, base, task, tmp_path):
    trainee = GatedFactors(setting)
    learnt(trainee)
    sites = trainee.sites
    with torch.no_grad():
        for number, gate in enumerate(trainee.gate):
            gate[: 1 + number % 3] = 0
        trainee.gate[1].zero_()
    ids = base.prepare(task.load_test(), max_length=32).ids[:6]
    with torch.no_grad(), base.using(trainee.updates()):
        gated = base.states(ids)
    factors = trainee.factors()
    assert ranks(factors) == {site: 1 if i == 1 else 5 - i % 3 for i, site in enumerate(sites)}
    a, b = ({site: pair[i] for site, pair in factors.items()} for i in (0, 1))
    Lora.from_factors(a, b, base_model_name_or_path=base.name).save(tmp_path / "adapter")
    saved = Lora.load(tmp_path / "adapter")
    assert {site.name: site.r for site in saved.spec.sites} == ranks(factors)
    assert saved.settings.rank_pattern
    assert not saved.delta_weight(sites[1]).any()
    with torch.no_grad(), base.adapted(saved):
        torch.testing.assert_close(base.states(ids), gated, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert (base.states(ids) - gated).abs().max() > 1e-2


def test_the_gate_is_drawn_and_a_start_with_an_update_of_its_own_keeps_it(setting):
    trainee = GatedFactors(replace(setting, rng=torch.Generator().manual_seed(3)), scaling=2.0)
    rng = torch.Generator().manual_seed(3)
    assert all(torch.equal(gate.data, torch.randn(6, generator=rng)) for gate in trainee.gate)
    start = Start(setting.start.lora_A, {site: torch.ones_like(b) for site, b in setting.start.lora_B.items()})
    for site, (a, b) in GatedFactors(replace(setting, start=start), scaling=2.0).factors().items():
        torch.testing.assert_close(b @ a, start.lora_B[site] @ start.lora_A[site])


def test_a_threshold_cuts_ranks_and_none_cuts_none(base, task):
    kept = {}
    for threshold in (0.0, 0.06, 1.0):
        recipe = RECIPE.model_copy(update={"threshold": threshold, "choices": 1})
        expert = train_sora(setting_of(base, task, recipe), recipe)
        kept[threshold] = [len(a) for a in expert.lora_A.values()]
    assert set(kept[0.0]) == {6}
    assert len(set(kept[0.06])) > 1, "each site has a rank of its own"
    assert all(1 <= rank <= 6 for rank in kept[0.06])
    assert set(kept[1.0]) == {1}, "one rank of zeros is left"


def test_an_expert_whose_ranks_are_all_cut_is_the_base(base, task):
    recipe = RECIPE.model_copy(update={"threshold": 1.0})
    expert = train_expert(task, base, setting_of(base, task, recipe).start, recipe)
    adapter = Lora.from_factors(expert.lora_A, expert.mean, base_model_name_or_path=base.name)
    assert adapter.norm() == 0
    ids = base.prepare(task.load_test(), max_length=32).ids
    bare = base.encode(ids)
    with base.adapted(adapter):
        assert torch.equal(base.encode(ids), bare)


def thresholds_of(base, task, recipe, monkeypatch):
    met = []
    monkeypatch.setattr(GatedFactors, "shrink", lambda _self, threshold: met.append(threshold))
    train_expert(task, base, setting_of(base, task, recipe).start, recipe)
    return met


def test_the_threshold_stays_or_rises_in_equal_steps(base, task, monkeypatch):
    assert thresholds_of(base, task, RECIPE, monkeypatch) == [RECIPE.threshold] * 12
    rising = RECIPE.model_copy(update={"threshold": 0.1, "last_threshold": 0.4, "levels": 4})
    met = thresholds_of(base, task, rising, monkeypatch)
    assert met == pytest.approx([0.1] * 3 + [0.2] * 3 + [0.3] * 3 + [0.4] * 3)


@given(st.integers(0, 50), st.integers(1, 60), st.integers(1, 70))
def test_levels_are_equal_parts_of_the_steps(begin, number, levels):
    met = [level_of(step, begin, begin + number, levels) for step in range(begin + 1, begin + number + 1)]
    assert met == sorted(met)
    assert met[-1] == levels
    assert met[0] >= 1
    sizes = [met.count(level) for level in range(1, levels + 1)]
    assert max(sizes) - min(sizes) <= 1


def test_weight_decay_is_of_a_and_b_alone(setting, base, task, monkeypatch):
    seen = []
    plain = torch.optim.AdamW

    def watched(groups, **options):
        seen.append((groups, options))
        return plain(groups, **options)

    monkeypatch.setattr(torch.optim, "AdamW", watched)
    train_sora(setting, RECIPE.model_copy(update={"weight_decay": 0.1}))
    ((factors, gate), options) = seen[0]
    assert (factors["weight_decay"], gate["weight_decay"]) == (0.1, 0.0)
    assert {parameter.ndim for parameter in factors["params"]} == {2}
    assert {parameter.ndim for parameter in gate["params"]} == {1}
    assert options["betas"] == (0.9, 0.999)
