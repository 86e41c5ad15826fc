"""Merges by name: rank control, TIES, DARE."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mergeable import DENSE, QUERY, SHAPES, VALUE, dense_sum, generator, is_update, make, mixed, shared

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import combined
from loragen.errors import AdapterError


@pytest.mark.parametrize("method", ["sum", "ties", "dare"])
@pytest.mark.parametrize(
    ("adapters", "changes", "message"),
    [
        ([], {"weights": []}, "at least one"),
        (shared(), {"weights": [1, 1]}, "one weight an adapter.*met 3 and 2"),
        (shared(), {"weights": [1, math.nan, 1]}, "weights.*nan.*finite"),
        ([make(1), make(2, base="other")], {}, "share their base"),
        ([make(1), make(2, fan_in_fan_out=True)], {}, "fan_in_fan_out"),
        (shared(), {"rank": 0}, "rank asked for is 0.*at least 1"),
        (shared(), {"energy": 1.5}, "energy to keep is 1.5.*at most 1"),
        (shared(), {"energy": 0.5, "rank": 1}, "Both a rank and an energy"),
        (shared(), {"scale": math.inf}, "scale.*inf.*finite"),
    ],
)
def test_no_merge_takes_what_does_not_go_together(method, adapters, changes, message):
    options = {"weights": [1] * len(adapters), "method": method} | changes
    with pytest.raises(AdapterError, match=message):
        combined(adapters, rng=generator(), **options)


def test_a_merge_that_is_not_there_and_a_density_out_of_range_are_refused():
    with pytest.raises(AdapterError, match="no merge 'slerp'; choose one of sum, ties, dare"):
        combined(shared(), [1, 1, 1], method="slerp", rng=generator())
    for method in ("ties", "dare"):
        for density in (0, -0.1, 1.1, math.nan):
            with pytest.raises(AdapterError, match=f"density is {density}; .* above 0 and at most 1"):
                combined(shared(), [1, 1, 1], method=method, density=density, rng=generator())


@st.composite
def some_adapters(draw):
    """Adapters of any ranks and scalings, some without some of the sites, and a weight for each."""
    adapters = [
        make(
            seed,
            draw(st.dictionaries(st.sampled_from(sorted(SHAPES)), st.integers(1, 5), min_size=1)),
            lora_alpha=draw(st.sampled_from([0.5, 3, 16])),
            use_rslora=draw(st.booleans()),
            alpha_pattern=draw(st.sampled_from([{}, {"query": 5}])),
        )
        for seed in range(draw(st.integers(1, 4)))
    ]
    weight = st.floats(0.1, 2) | st.floats(-2, -0.1)
    return adapters, draw(st.lists(weight, min_size=len(adapters), max_size=len(adapters)))


def dense_ties(adapters, weights, density):
    """TIES with whole stacks of delta weights, absent ones as zeros; negative weights negate."""
    total = {}
    for site in {site for adapter in adapters for site in adapter.sites}:
        stack = []
        for adapter, weight in zip(adapters, weights, strict=True):
            delta = np.zeros(SHAPES[site])
            if site in adapter.sites:
                delta = np.sign(weight) * dense_sum([adapter], [1])[site].numpy()
            least = sorted(abs(delta).ravel(), reverse=True)[round(density * delta.size) - 1]
            stack.append(np.where(abs(delta) < least, 0, delta))
        sign = np.sign(np.einsum("kij,k->ij", stack, np.abs(weights)))
        agreeing = np.ma.masked_array(stack, mask=[np.sign(trimmed) != sign for trimmed in stack])
        total[site] = torch.tensor(np.ma.average(agreeing, axis=0, weights=np.abs(weights)).filled(0))
    return total


def assert_best(merged, wanted, rank):
    """The error of a merge is that of the best approximation in this rank, and is what it says of its energy."""
    full = sum(float(delta.square().sum()) for delta in wanted.values())
    lost = sum(float(torch.linalg.svdvals(delta)[rank:].square().sum()) for delta in wanted.values())
    error = sum(
        float((merged.adapter.delta_weight(site).double() - delta).square().sum()) for site, delta in wanted.items()
    )
    assert set(merged.adapter.sites) == set(wanted)
    assert max(site.r for site in merged.adapter.spec.sites) <= rank
    assert error == pytest.approx(lost, rel=1e-4, abs=1e-9 * full)
    assert merged.energy_kept == pytest.approx(1 - lost / full, abs=1e-5)


@given(some=some_adapters(), rank=st.integers(1, 20), scale=st.sampled_from([1, 0.3, -2]))
def test_a_weighted_sum_in_a_rank_is_the_best_there_is(some, rank, scale):
    adapters, weights = some
    wanted = dense_sum(adapters, [scale * weight for weight in weights])
    assert_best(combined(adapters, weights, rank=rank, scale=scale, rng=generator()), wanted, rank)
    whole = combined(adapters, weights, scale=scale, rng=generator())
    assert is_update(whole.adapter, wanted, atol=1e-4)
    assert whole.energy_kept == 1


@given(some=some_adapters(), rank=st.integers(1, 16), density=st.sampled_from([0.05, 0.2, 0.5, 1]))
def test_ties_is_that_of_dense_stacks_in_the_best_rank(some, rank, density):
    adapters, weights = some
    merged = combined(adapters, weights, method="ties", density=density, rank=rank, scale=1.5, rng=generator())
    wanted = {site: 1.5 * delta for site, delta in dense_ties(adapters, weights, density).items()}
    assert_best(merged, wanted, rank)


@given(some=some_adapters(), rank=st.integers(1, 16))
def test_dare_in_a_rank_is_the_best_there_is_and_drops_nothing_at_density_1(some, rank):
    adapters, weights = some

    def dare(rank, density):
        return combined(adapters, weights, method="dare", density=density, rank=rank, scale=2, rng=generator(5))

    full = dare(16, 0.5).adapter
    assert_best(dare(rank, 0.5), {site: full.delta_weight(site).double() for site in full.sites}, rank)
    assert_best(dare(rank, 1.0), dense_sum(adapters, [2 * weight for weight in weights]), rank)


@pytest.mark.parametrize("method", ["sum", "ties", "dare"])
@pytest.mark.parametrize("energy", [0.3, 0.8, 1.0])
def test_an_energy_takes_the_smallest_rank_of_each_site_that_keeps_it(method, energy):
    def merge(**cut):
        return combined(mixed(), [1, 0.5, -1], method=method, density=0.5, rng=generator(2), **cut)

    whole, kept = merge(rank=16).adapter, merge(energy=energy)
    total, held = 0.0, 0.0
    for site in whole.sites:
        squares = torch.linalg.svdvals(whole.delta_weight(site).double()).square()
        shares = squares.cumsum(0) / squares.sum()
        rank = len(kept.adapter.lora_A[site])
        assert shares[rank - 1] >= energy - 1e-6
        assert rank == 1 or shares[rank - 2] < energy
        total, held = total + float(squares.sum()), held + float(squares[:rank].sum())
    assert kept.energy_kept == pytest.approx(held / total, abs=1e-5)
    assert kept.adapter.norm() ** 2 == pytest.approx(held, rel=1e-4)


def test_the_rank_of_ties_and_dare_is_by_default_the_largest_among_the_adapters_that_have_the_site():
    for method in ("ties", "dare"):
        merged = combined(mixed(), [1, 1, 1], method=method, rng=generator())
        assert {site.name: site.r for site in merged.adapter.spec.sites} == {QUERY: 3, VALUE: 2, DENSE: 4}
        assert 0 < merged.energy_kept < 1


def test_a_merge_of_nothing_loses_nothing():
    for method in ("sum", "ties", "dare"):
        merged = combined(shared(), [0, 0, 0], method=method, rank=2, rng=generator())
        assert (merged.adapter.norm(), merged.energy_kept) == (0, 1)


def with_delta(*rows):
    """An adapter of full rank, whose one delta weight is given."""
    delta = torch.tensor(rows)
    return Lora.from_factors({"q": torch.eye(delta.shape[1])}, {"q": delta}, base_model_name_or_path="tiny")


@pytest.mark.parametrize(
    ("weights", "scale", "wanted"),
    [
        # Trimmed: [[4, 0], [2, 0]], [[0, -3], [2.5, 0]], [[-5, 0], [-4, 0]].
        ((1, 1, 1), 1, [[-5, -3], [2.25, 0]]),
        ((1 / 3, 1 / 3, 1 / 3), 2, [[-10, -6], [4.5, 0]]),
        ((2, 1, 1), 1, [[4, -3], [6.5 / 3, 0]]),  # 8 against 5: another sign of the first entry
        ((1, 1, -1), 1, [[4.5, -3], [8.5 / 3, 0]]),  # the third one, negated, agrees
        ((5, 4, 0), 1, [[4, -3], [20 / 9, 0]]),
        ((5, 1, 4), 1, [[0, -3], [-4, 0]]),  # +20 and -20: no sign is elected
    ],
)
def test_ties_by_hand(weights, scale, wanted):
    adapters = [
        with_delta((4.0, -1.0), (2.0, 0.5)),
        with_delta((-1.0, -3.0), (2.5, 0.1)),
        with_delta((-5.0, 1.0), (-4.0, 2.0)),
    ]
    merged = combined(adapters, weights, method="ties", density=0.5, scale=scale, rng=generator())
    assert torch.allclose(merged.adapter.delta_weight("q"), torch.tensor(wanted).float(), atol=1e-5)
    assert merged.energy_kept == pytest.approx(1)


def test_dare_drops_each_entry_of_each_adapter_on_its_own_and_rescales_the_others():
    ones = with_delta(*[(1.0,) * 40] * 50)
    delta = combined(
        [ones, ones], [0.3, 0.6], method="dare", density=0.25, rank=40, rng=generator()
    ).adapter.delta_weight("q")
    shares = {
        value: float(torch.isclose(delta, torch.tensor(value), atol=1e-4).float().mean())
        for value in (0.0, 1.2, 2.4, 3.6)
    }
    wanted = {0.0: 0.75**2, 1.2: 0.25 * 0.75, 2.4: 0.25 * 0.75, 3.6: 0.25**2}
    assert sum(shares.values()) == pytest.approx(1)
    assert shares == pytest.approx(wanted, abs=4 * math.sqrt(0.25 / 2000))


def test_dare_is_on_average_the_weighted_sum():
    sizes, rng = {"q": (3, 4), "v": (2, 3)}, generator(1)
    adapters = [
        Lora.from_factors(
            {site: torch.randn(2, sizes[site][1], generator=rng) for site in sites},
            {site: torch.randn(sizes[site][0], 2, generator=rng) for site in sites},
            base_model_name_or_path="tiny",
            scaling=scaling,
        )
        for sites, scaling in ((("q", "v"), 2.0), (("q",), 0.5))
    ]
    weights, density, draws = [0.7, -0.4], 0.4, 2000
    made = [
        combined(adapters, weights, method="dare", density=density, rank=4, rng=generator(seed)).adapter
        for seed in range(draws)
    ]
    for site, wanted in dense_sum(adapters, weights).items():
        mean = torch.stack([adapter.delta_weight(site) for adapter in made]).double().mean(0)
        parts = [dense_sum([adapter], [weight]).get(site, 0) for adapter, weight in zip(adapters, weights, strict=True)]
        deviation = (sum(part**2 for part in parts) * (1 / density - 1) / draws).sqrt()
        assert ((mean - wanted).abs() < 4 * deviation + 1e-6).all()
        assert ((mean - wanted).abs() > 0.1 * deviation).any(), "something is dropped at all"


def test_dare_draws_from_its_generator_alone():
    def dare(seed):
        return combined(mixed(), [1, 1, 1], method="dare", density=0.5, rng=generator(seed)).adapter

    one, same, other = dare(3), dare(3), dare(4)
    assert all(torch.equal(one.delta_weight(site), same.delta_weight(site)) for site in one.sites)
    assert not any(torch.allclose(one.delta_weight(site), other.delta_weight(site), atol=1e-2) for site in one.sites)


def test_adapters_of_several_task_types_are_refused_by_name():
    one, other, free = (make_of(kind) for kind in ("CAUSAL_LM", "SEQ_CLS", None))
    for method in ("sum", "ties", "dare"):
        with pytest.raises(AdapterError, match="met adapter 1 is CAUSAL_LM, adapter 3 is SEQ_CLS"):
            combined([one, free, other], [1, 1, 1], method=method, rng=torch.Generator().manual_seed(0))
    for pair in ([one, free], [free, one]):
        merged = combined(pair, [1, 1], rng=torch.Generator()).adapter
        assert merged.settings.task_type == "CAUSAL_LM"


def make_of(task_type):
    site = "model.layers.0.self_attn.q_proj"
    return Lora.from_factors(
        {site: torch.ones(1, 4)}, {site: torch.ones(4, 1)}, base_model_name_or_path="tiny", task_type=task_type
    )


def test_the_revision_of_the_base_is_kept_and_two_are_not_merged():
    one = make(1)
    pinned = replace(one, settings=replace(one.settings, revision="v2"))
    name = one.settings.base
    for method in ("sum", "ties"):
        made = combined([pinned, pinned], [0.5, 0.5], method=method, rng=generator(0))
        assert made.adapter.settings.base == f"{name}@v2"
        assert made.adapter.settings.base_model_name_or_path == name
    with pytest.raises(AdapterError, match=r"must share their base model; met .*@v2"):
        combined([pinned, one], [1, 1], rng=generator(0))
