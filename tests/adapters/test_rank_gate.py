"""The rank gate against plain sums and dense products."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.rank_gate import GatedUpdate, block_gate, concatenated
from loragen.errors import AdapterError


def drawn(seed, r=5, out=7, width=6):
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(r, width, generator=rng),
        torch.randn(out, r, generator=rng),
        torch.randn(3, 4, width, generator=rng),
    )


@given(st.integers(0, 10**6))
def test_a_constant_gate_is_the_folded_adapter(seed):
    a, b, x = drawn(seed)
    gate = torch.randn(5, generator=torch.Generator().manual_seed(seed))
    gate[seed % 5] = 0
    folded_a, folded_b = GatedUpdate(a, b, gate).folded()
    assert len(folded_a) == folded_b.shape[1] == 4
    torch.testing.assert_close(x @ (folded_b @ folded_a).T, GatedUpdate(a, b, gate)(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded_b @ folded_a, b @ torch.diag(gate) @ a, rtol=1e-4, atol=1e-5)


def test_a_gate_that_is_zero_everywhere_leaves_one_rank_of_zeros():
    a, b, _ = drawn(0)
    folded_a, folded_b = GatedUpdate(a, b, torch.zeros(5)).folded()
    assert folded_a.shape == (1, 6)
    assert folded_b.shape == (7, 1)
    assert not folded_b.any()


@given(st.integers(0, 10**6))
def test_a_block_gate_weighs_concatenated_experts(seed):
    rng = torch.Generator().manual_seed(seed)
    ranks, weights = (2, 1, 3), torch.randn(3, generator=rng)
    pairs = [(torch.randn(r, 6, generator=rng), torch.randn(7, r, generator=rng)) for r in ranks]
    a, b = concatenated(pairs)
    x = torch.randn(4, 6, generator=rng)
    wanted = sum(w * x @ (one_b @ one_a).T for w, (one_a, one_b) in zip(weights, pairs, strict=True))
    torch.testing.assert_close(GatedUpdate(a, b, block_gate(weights, ranks))(x), wanted, rtol=1e-4, atol=1e-5)


def test_a_computed_gate_sees_input_and_coordinates():
    a, b, x = drawn(1)
    update = GatedUpdate(a, b, lambda given, coordinates: (coordinates * given.sum(-1, keepdim=True)).sigmoid())
    coordinates = x @ a.T
    gate = (coordinates * x.sum(-1, keepdim=True)).sigmoid()
    torch.testing.assert_close(update(x), (coordinates * gate) @ b.T)
    assert (update.out_features, update.in_features) == (7, 6)
    with pytest.raises(AdapterError, match="computed from the input"):
        update.folded()


def test_factors_and_gates_of_different_ranks_are_refused():
    a, b, _ = drawn(2)
    with pytest.raises(AdapterError, match=r"one r; met \(5, 6\) and \(7, 4\)"):
        GatedUpdate(a, b[:, :4], torch.ones(5))
    with pytest.raises(AdapterError, match=r"A gate \(\(4,\)\)"):
        GatedUpdate(a, b, torch.ones(4))
