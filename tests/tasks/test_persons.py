"""Synthetic persons: domains of one group, shares that sum to 1, and texts as often as the person likes them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.tasks.persons import Domain, Person

DOMAINS = (*(Domain(f"i{n}", "intent", n + 2) for n in range(4)), Domain("t0", "topic", 3))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@given(seed=st.integers(0, 10_000), fewest=st.integers(1, 3))
def test_a_person_has_domains_of_one_group_and_shares_that_sum_to_one(seed, fewest):
    person = Person.draw(DOMAINS, fewest=fewest, most=3, rng=seeded(seed))
    known = {domain.name: domain for domain in DOMAINS}
    own = [known[name] for name in person.domains]
    assert len({domain.group for domain in own}) == 1
    assert len(set(person.domains)) == len(own)
    assert (fewest if own[0].group == "intent" else 1) <= len(own) <= 3
    assert sum(person.shares) == pytest.approx(1)
    for domain, taste in zip(own, person.tastes, strict=True):
        assert len(taste) == domain.labels
        assert sum(taste) == pytest.approx(1)
        assert max(taste) == pytest.approx(domain.labels * min(taste))
    assert person == Person.draw(DOMAINS, fewest=fewest, most=3, rng=seeded(seed))


def test_texts_come_as_often_as_the_person_likes_their_domains_and_labels():
    person = Person(("a", "b"), (0.75, 0.25), ((0.5, 0.5), (0.8, 0.2)))
    labels = ((0, 0, 0, 1), (0, 1, 1, 1, 1))
    counts = torch.zeros(9)
    for seed in range(1500):
        counts[person.draw_texts(labels, 1, rng=seeded(seed))] += 1
    wanted = torch.tensor([*[0.75 * 0.5 / 3] * 3, 0.75 * 0.5, 0.25 * 0.8, *[0.25 * 0.2 / 4] * 4])
    torch.testing.assert_close(counts / 1500, wanted, atol=0.05, rtol=0)


def test_no_text_comes_twice_and_no_more_than_there_are():
    person = Person(("a", "b"), (0.75, 0.25), ((0.5, 0.5), (0.8, 0.2)))
    labels = ((0, 0, 1), (0, 1))
    assert sorted(person.draw_texts(labels, 99, rng=seeded()).tolist()) == [0, 1, 2, 3, 4]
    assert len(set(person.draw_texts(labels, 3, rng=seeded(1)).tolist())) == 3


def test_a_label_that_no_text_has_leaves_its_share_to_the_others():
    person = Person(("a",), (1.0,), ((0.9, 0.1),))
    assert person.draw_texts(((1, 1),), 5, rng=seeded()).tolist() in ([0, 1], [1, 0])
