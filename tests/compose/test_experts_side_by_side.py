"""Experts joined along the ranks: constant gates against merges on delta weights, and what is refused."""

import pytest
import torch
from compose_tools import states_under
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.adapters.combine import weighted_sum
from loragen.compose.experts import Experts
from loragen.errors import AdapterError


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_a_weight_an_expert_is_the_weighted_sum_of_their_updates(base, experts, ids, weights):
    gates = {site: at.spread(torch.tensor(weights)) for site, at in experts.sites.items()}
    summed = weighted_sum(experts.loras, weights)
    with base.adapted(summed):
        wanted = base.states(ids)
    assert torch.allclose(states_under(base, experts, gates, ids), wanted, atol=1e-5)


def test_canonical_experts_are_the_same_updates(base, experts, ids):
    ones = [
        {site: torch.ones(len(at.lora_A)) for site, at in some.sites.items()} for some in (experts, experts.canonical())
    ]
    before, after = (
        states_under(base, some, gates, ids) for some, gates in zip((experts, experts.canonical()), ones, strict=True)
    )
    assert torch.allclose(before, after, atol=1e-5)


def test_an_expert_without_a_site_has_no_rank_there(experts):
    first, *others = experts.sites.values()
    assert first.ranks == (3, 2, 0)
    assert first.present.tolist() == [True, True, False]
    assert all(at.ranks == (3, 2, 4) for at in others)
    assert others[0].owners.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_experts_that_do_not_go_together_are_refused(base, experts):
    from dataclasses import replace

    first, second = experts.loras[:2]
    with pytest.raises(AdapterError, match="called 'same'"):
        Experts.of([first, second], ["same", "same"])
    with pytest.raises(AdapterError, match="0 experts were given"):
        Experts.of([], [])
    elsewhere = replace(second, settings=replace(second.settings, base_model_name_or_path="other"))
    with pytest.raises(AdapterError, match="several bases"):
        Experts.of([first, elsewhere], ["a", "b"])
