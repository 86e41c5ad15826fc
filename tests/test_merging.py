import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_bert

from loragen.adapters.adapter import Lora, LoraSettings
from loragen.adapters.combine import combined, truncated, weighted_sum
from loragen.errors import AdapterError

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUERY, VALUE = (f"encoder.layer.1.attention.self.{name}" for name in ("query", "value"))
DENSE = "encoder.layer.0.output.dense"
SHAPES = {QUERY: (16, 16), VALUE: (16, 16), DENSE: (16, 32)}  # (out, in) in tiny_bert


def make(seed, ranks=None, lora_A=None, base="tiny", **options):
    """An adapter with random factors, or over a given A."""
    ranks = {site: len(a) for site, a in lora_A.items()} if lora_A else ranks or dict.fromkeys(SHAPES, 3)
    r = next(iter(ranks.values()))
    settings = LoraSettings(
        r=r,
        lora_alpha=options.pop("lora_alpha", r),
        target_modules=tuple(ranks),
        base_model_name_or_path=base,
        rank_pattern={site: rank for site, rank in ranks.items() if rank != r},
        **options,
    )
    rng = torch.Generator().manual_seed(seed)
    a = lora_A or {site: 0.3 * torch.randn(rank, SHAPES[site][1], generator=rng) for site, rank in ranks.items()}
    b = {site: 0.3 * torch.randn(SHAPES[site][0], rank, generator=rng) for site, rank in ranks.items()}
    return Lora(settings, a, b)


def shared(**options):
    lora_A = make(0).lora_A
    return [make(seed, lora_A=lora_A, **options) for seed in (1, 2, 3)]


def independent(**options):
    return [make(seed, **options) for seed in (1, 2, 3)]


def mixed(**options):
    return [
        make(1, {QUERY: 2, VALUE: 1, DENSE: 4}, lora_alpha=8, **options),
        make(2, {QUERY: 1, VALUE: 2}, lora_alpha=3, use_rslora=True, **options),
        make(3, {QUERY: 3, DENSE: 3}, lora_alpha=2, alpha_pattern={"query": 5}, use_rslora=True, **options),
    ]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


KINDS = {"shared A": shared, "independent": independent, "mixed": mixed}


def dense_sum(adapters, weights):
    total = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for site in adapter.sites:
            b, a = adapter.lora_B[site].double(), adapter.lora_A[site].double()
            total[site] = total.get(site, 0) + weight * adapter.settings.scaling(site) * b @ a
    return total


def is_update(adapter, wanted, atol=1e-5):
    return set(adapter.sites) == set(wanted) and all(
        torch.allclose(adapter.delta_weight(site).double(), wanted[site].double(), atol=atol) for site in wanted
    )


@pytest.mark.parametrize("kind", KINDS)
@given(weights=st.lists(st.floats(-3, 3), min_size=3, max_size=3), order=st.permutations(range(3)))
def test_a_weighted_sum_is_the_sum_of_updates_in_any_order(kind, weights, order):
    adapters = KINDS[kind]()
    merged = weighted_sum([adapters[i] for i in order], [weights[i] for i in order])
    assert is_update(merged, dense_sum(adapters, weights), atol=1e-4)


def test_ranks_stay_over_a_shared_a_and_add_up_elsewhere():
    assert {site.r for site in weighted_sum(shared(), [1, 2, 3]).spec.sites} == {3}
    assert {site.r for site in weighted_sum(independent(), [1, 2, 3]).spec.sites} == {9}
    ranks = {site.name: site.r for site in weighted_sum(mixed(), [1, 2, 3]).spec.sites}
    assert ranks == {QUERY: 6, VALUE: 3, DENSE: 7}


@pytest.mark.parametrize("kind", KINDS)
def test_one_of_one_is_itself(kind):
    for adapter in KINDS[kind]():
        merged = weighted_sum([adapter], [1.0])
        assert merged.spec.difference(adapter.spec) is None
        assert is_update(merged, {site: adapter.delta_weight(site) for site in adapter.sites}, atol=1e-6)


def test_what_is_said_of_the_base_is_kept():
    adapters = independent(task_type="FEATURE_EXTRACTION", fan_in_fan_out=True)
    for merged in (weighted_sum(adapters, [1, 1, 1]), truncated(adapters[0], 2)):
        assert merged.settings.base_model_name_or_path == "tiny"
        assert merged.settings.task_type == "FEATURE_EXTRACTION"
        assert merged.settings.fan_in_fan_out
        assert torch.equal(merged.weight_update(DENSE), merged.delta_weight(DENSE).T)


def test_averaging_the_factors_apart_is_not_the_mean_update():
    adapters = independent()
    apart = Lora(
        adapters[0].settings,
        {site: torch.stack([adapter.lora_A[site] for adapter in adapters]).mean(0) for site in SHAPES},
        {site: torch.stack([adapter.lora_B[site] for adapter in adapters]).mean(0) for site in SHAPES},
    )
    wanted = dense_sum(adapters, [1 / 3] * 3)
    assert is_update(weighted_sum(adapters, [1 / 3] * 3), wanted)
    error = math.sqrt(sum((apart.delta_weight(site) - wanted[site]).square().sum() for site in wanted))
    assert error > 0.5 * math.sqrt(sum(delta.square().sum() for delta in wanted.values()))


def peft_merge(adapters, weights, combination_type, tmp_path, **options):
    """Delta weights of what PEFT's add_weighted_adapter makes of some adapters."""
    from peft import PeftModel

    for i, adapter in enumerate(adapters):
        adapter.save(tmp_path / str(i))
    model = PeftModel.from_pretrained(tiny_bert(), tmp_path / "0", adapter_name="0")
    for i in range(1, len(adapters)):
        model.load_adapter(tmp_path / str(i), str(i))
    names = [str(i) for i in range(len(adapters))]
    model.add_weighted_adapter(names, weights, "merged", combination_type=combination_type, **options)
    return {
        site: model.base_model.model.get_submodule(site).get_delta_weight("merged").detach()
        for site in adapters[0].sites
    }


def test_pefts_cat_is_the_same_merge(tmp_path):
    adapters, weights = independent(lora_alpha=5), [0.5, 0.3, 0.2]
    assert is_update(weighted_sum(adapters, weights), peft_merge(adapters, weights, "cat", tmp_path))


@pytest.mark.parametrize("kind", ["shared A", "independent"])
def test_pefts_linear_differs_since_it_sums_the_factors_apart(tmp_path, kind):
    adapters, weights = KINDS[kind](), [0.5, 0.3, 0.2]
    by_peft = peft_merge(adapters, weights, "linear", tmp_path)
    merged = weighted_sum(adapters, weights)
    for site, delta in by_peft.items():
        # (Σ √wᵢ Bᵢ)(Σ √wᵢ Aᵢ): products of one adapter's B with another one's A come in.
        b, a = (
            sum(
                math.sqrt(weight) * getattr(adapter, name)[site]
                for adapter, weight in zip(adapters, weights, strict=True)
            )
            for name in ("lora_B", "lora_A")
        )
        assert torch.allclose(delta, b @ a, atol=1e-5)
        assert (delta - merged.delta_weight(site)).norm() > 0.3 * merged.delta_weight(site).norm()


@pytest.mark.parametrize(
    ("combination_type", "ranks", "options"),
    [("linear", (8, 8), {}), ("cat", (4, 8), {}), ("svd", (4, 8), {"svd_rank": 12})],
)
def test_rslora_adapters_merge_exactly_where_pefts_merges_are_far_off(tmp_path, combination_type, ranks, options):
    # PEFT 0.21 hands use_rslora on to what it merged, so that √r scales it (huggingface/peft issue 3761).
    adapters = [
        make(seed, dict.fromkeys(SHAPES, r), lora_alpha=16, use_rslora=True) for seed, r in enumerate(ranks, start=1)
    ]
    weights = [0.6, 0.4]
    wanted = dense_sum(adapters, weights)

    def error(deltas):
        off = sum(float((deltas[site].double() - wanted[site]).square().sum()) for site in wanted)
        return math.sqrt(off / sum(float(delta.square().sum()) for delta in wanted.values()))

    for ours in (
        weighted_sum(adapters, weights),
        combined(adapters, weights, rank=sum(ranks), rng=generator()).adapter,
    ):
        assert error({site: ours.delta_weight(site) for site in wanted}) < 1e-5
    by_peft = error(peft_merge(adapters, weights, combination_type, tmp_path, **options))
    if combination_type == "linear":
        assert by_peft > 0.5
    else:
        assert by_peft == pytest.approx(math.sqrt(12) - 1, abs=1e-3)


@pytest.mark.parametrize(("adapters", "weights"), [([], []), (shared(), [1.0]), (shared()[:1], [0.5, 0.5])])
def test_one_weight_an_adapter_is_wanted(adapters, weights):
    with pytest.raises(AdapterError, match=f"one weight an adapter.*met {len(adapters)} and {len(weights)}"):
        weighted_sum(adapters, weights)


def test_adapters_of_other_bases_or_shapes_are_refused():
    with pytest.raises(AdapterError, match=r"share their base model.*'other', 'tiny'"):
        weighted_sum([make(1), make(2, base="other")], [1, 1])
    odd = Lora.from_factors({QUERY: torch.ones(2, 8)}, {QUERY: torch.ones(16, 2)}, base_model_name_or_path="tiny")
    with pytest.raises(AdapterError, match=rf"agree on '{QUERY}'.*\(16, 8\), \(16, 16\)"):
        weighted_sum([make(1), odd], [1, 1])


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


# --- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_truncation_is_that_of_a_dense_svd(kind, r):
    adapters = KINDS[kind](lora_alpha=5) if kind != "mixed" else mixed()
    for whole in (*adapters, weighted_sum(adapters, [0.7, -0.2, 0.5])):
        cut = truncated(whole, r)
        for site in whole.sites:
            left, singular, right = torch.linalg.svd(whole.delta_weight(site).double(), full_matrices=False)
            best = left[:, :r] * singular[:r] @ right[:r]
            assert torch.allclose(cut.delta_weight(site).double(), best, atol=1e-5)
            assert cut.lora_A[site].shape[0] == min(r, whole.lora_A[site].shape[0])


def test_truncation_to_the_full_rank_changes_nothing_even_beyond_the_sizes_of_the_module():
    merged = weighted_sum([make(seed, {DENSE: 13}, lora_alpha=3) for seed in range(4)], [1, 2, 3, 4])
    assert merged.lora_A[DENSE].shape == (52, 32)
    cut = truncated(merged, 100)
    assert cut.lora_A[DENSE].shape == (16, 32)
    assert (cut.delta_weight(DENSE) - merged.delta_weight(DENSE)).norm() < 1e-5 * merged.norm()


# --- merges by name: rank control, TIES, DARE -------------------------------------------------------------------------


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
