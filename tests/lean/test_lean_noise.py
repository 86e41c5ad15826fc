"""The lean path's numbers against torch's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loragen.lean.bert import gelu
from loragen.lean.noise import Noise

SEEDS = (0, 1, 4711, 2**31, 2**32 + 5, 2**63 + 11, 2**64 - 1, -1, -(2**63))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 31, 32, 33, 100, 1000])
def test_a_seed_gives_what_torch_gives(seed, size):
    rng, noise = torch.Generator().manual_seed(seed), Noise(seed)
    for _ in range(3):
        np.testing.assert_allclose(noise.draw(size), torch.randn(size, generator=rng).numpy(), rtol=0, atol=3e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(-(2**63), 2**64 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_draws_of_many_sizes_follow_one_another_as_in_torch(seed, sizes):
    rng, noise = torch.Generator().manual_seed(seed), Noise(seed)
    for size in sizes:
        np.testing.assert_allclose(noise.draw(size), torch.randn(size, generator=rng).numpy(), rtol=0, atol=3e-6)


def test_more_numbers_than_the_state_has_words():
    drawn = Noise(3).draw(5_000)
    assert np.abs(drawn - torch.randn(5_000, generator=torch.Generator().manual_seed(3)).numpy()).max() < 3e-6
    assert abs(drawn.mean()) < 0.05
    assert abs(drawn.std() - 1) < 0.05


def test_gelu_is_that_of_torch():
    x = np.linspace(-12, 12, 100_001, dtype=np.float32)
    exact = torch.nn.functional.gelu(torch.from_numpy(x).double()).numpy()
    assert (np.abs(gelu(x) - exact) <= 1e-8 + 1e-7 * np.abs(exact)).all()
