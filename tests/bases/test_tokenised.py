from itertools import chain

import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.bases.tokenised import TaskData


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(n):
    """Data whose target is its own number, and whose texts have all kinds of lengths."""
    return TaskData(tuple([i] * (1 + i * 7 % 11) for i in range(n)), torch.arange(n), ([0], [1]))


@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31))
def test_batches_cover_every_example_once_a_pass(n, size, rounds, seed):
    batches = list(numbered(n).batches(4 * rounds, size, rng=seeded(seed)))
    assert [len(batch.ids) for batch in batches] == [size] * 4 * rounds
    drawn = torch.cat([batch.targets for batch in batches])
    counts = torch.bincount(drawn, minlength=n)
    assert counts.max() - counts.min() <= 1
    assert all(ids[0] == target for batch in batches for ids, target in zip(batch.ids, batch.targets, strict=True))
    assert all(batch.label_ids == ([0], [1]) for batch in batches)


@given(st.integers(2, 40), st.integers(1, 9), st.integers(0, 2**31))
def test_batches_follow_from_the_rng_alone(n, size, seed):
    one, two = ([b.targets.tolist() for b in numbered(n).batches(7, size, rng=seeded(seed))] for _ in range(2))
    assert one == two


def test_batches_are_shuffled_anew_each_pass():
    drawn = [sorted(b.targets.tolist()) for b in numbered(64).batches(16, 8, rng=seeded())]
    first, second = drawn[:8], drawn[8:]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(64))
    assert not any(batch in first for batch in second)


@given(st.integers(5, 200), st.integers(1, 60), st.integers(0, 2**31))
def test_a_split_is_disjoint_whole_and_leaves_most_for_training(n, held_out, seed):
    train, held = numbered(n).split(held_out, rng=seeded(seed))
    assert sorted(train.targets.tolist() + held.targets.tolist()) == list(range(n))
    assert len(held.ids) == min(held_out, n // 5)
    assert [ids[0] for ids in (*train.ids, *held.ids)] == train.targets.tolist() + held.targets.tolist()
