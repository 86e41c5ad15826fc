import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mergeable import (
    DENSE,
    KINDS,
    QUERY,
    SHAPES,
    VALUE,
    dense_sum,
    generator,
    independent,
    is_update,
    make,
    mixed,
    shared,
)
from models import tiny_bert

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import combined, weighted_sum
from loragen.adapters.squeeze import squeeze
from loragen.errors import AdapterError

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


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
    for merged in (weighted_sum(adapters, [1, 1, 1]), squeeze(adapters[0], rank=2).adapter):
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


# --- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("r", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_truncation_is_that_of_a_dense_svd(kind, r):
    adapters = KINDS[kind](lora_alpha=5) if kind != "mixed" else mixed()
    for whole in (*adapters, weighted_sum(adapters, [0.7, -0.2, 0.5])):
        cut = squeeze(whole, rank=r).adapter
        for site in whole.sites:
            left, singular, right = torch.linalg.svd(whole.delta_weight(site).double(), full_matrices=False)
            best = left[:, :r] * singular[:r] @ right[:r]
            assert torch.allclose(cut.delta_weight(site).double(), best, atol=1e-5)
            assert cut.lora_A[site].shape[0] == min(r, whole.lora_A[site].shape[0])


def test_truncation_to_the_full_rank_changes_nothing_even_beyond_the_sizes_of_the_module():
    merged = weighted_sum([make(seed, {DENSE: 13}, lora_alpha=3) for seed in range(4)], [1, 2, 3, 4])
    assert merged.lora_A[DENSE].shape == (52, 32)
    cut = squeeze(merged, rank=100).adapter
    assert cut.lora_A[DENSE].shape == (16, 32)
    assert (cut.delta_weight(DENSE) - merged.delta_weight(DENSE)).norm() < 1e-5 * merged.norm()
