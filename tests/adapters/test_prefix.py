"""Cut adapters against masks over the whole ones, against PEFT, and against dense products."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import QUERY, VALUE, make_adapter

from loragen.adapters.adapter import Lora
from loragen.adapters.prefix import prefix, prefix_factors
from loragen.adapters.rank_gate import GatedUpdate
from loragen.errors import AdapterError


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([0.5, 1.0, 2.0]))
def test_the_prefix_is_the_whole_under_a_mask_with_alpha_over_its_rank(seed, rank, scaling):
    rng = torch.Generator().manual_seed(seed)
    a, b, x = (torch.randn(size, generator=rng) for size in ((6, 5), (7, 6), (4, 5)))
    whole = Lora.from_factors({QUERY: a}, {QUERY: b}, base_model_name_or_path="tiny", scaling=scaling)
    mask = (torch.arange(6) < rank).float()
    wanted = GatedUpdate(a, b, mask)(x) * whole.settings.alpha(QUERY) / rank
    cut = prefix(whole, rank)
    assert [site.r for site in cut.spec.sites] == [rank]
    torch.testing.assert_close(x @ cut.delta_weight(QUERY).T, wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_scaling_each_factor_by_a_root_gives_the_same_update_and_gradients(seed, rank):
    rng = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(size, generator=rng, requires_grad=True) for size in ((6, 5), (7, 6)))
    root = (6 / rank) ** 0.5
    one_a, one_b = prefix_factors(a, b, rank)
    other_a, other_b = root * a[:rank], root * b[:, :rank]
    torch.testing.assert_close(one_b @ one_a, other_b @ other_a, rtol=1e-4, atol=1e-5)
    weight = torch.randn(7, 5, generator=rng)
    grads = [
        torch.autograd.grad((weight * (left @ right)).sum(), (a, b))
        for left, right in ((one_b, one_a), (other_b, other_a))
    ]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_the_whole_rank_changes_nothing():
    adapter = make_adapter({QUERY: 3, VALUE: 3}, scaling=0.5, task_type="FEATURE_EXTRACTION")
    for cut in (prefix(adapter, 3), prefix(adapter, 3, rescaled=False)):
        assert cut.settings.task_type == "FEATURE_EXTRACTION"
        assert cut.settings.base == "tiny"
        for site in adapter.sites:
            torch.testing.assert_close(cut.delta_weight(site), adapter.delta_weight(site))


def test_sites_of_lower_rank_stay_whole():
    adapter = make_adapter({QUERY: 4, VALUE: 1})
    cut = prefix(adapter, 2)
    assert {site.name: site.r for site in cut.spec.sites} == {QUERY: 2, VALUE: 1}
    torch.testing.assert_close(cut.delta_weight(VALUE), adapter.delta_weight(VALUE))
    a, b = adapter.scaled_factors(QUERY)
    torch.testing.assert_close(cut.delta_weight(QUERY), 4 / 2 * b[:, :2] @ a[:2])
    torch.testing.assert_close(prefix(adapter, 2, rescaled=False).delta_weight(QUERY), b[:, :2] @ a[:2])


@pytest.mark.parametrize("rank", [0, -1, 5])
def test_ranks_that_the_adapter_does_not_have_are_refused(rank):
    with pytest.raises(AdapterError, match=rf"cut to rank {rank}, and its largest is 4; give a rank from 1"):
        prefix(make_adapter({QUERY: 4, VALUE: 2}), rank)
