"""Similarities to the experts of other families, against a plain loop."""

import numpy as np
import pytest

from loragen.confidence import left_out
from loragen.confidence.left_out import left_out_similarities

FAMILIES = ("a", "a", "b", "c", "d", "e", "e")


def units(rng, *shape):
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@pytest.fixture
def zoo():
    rng = np.random.default_rng(0)
    return [units(rng, 1 + at % 3, 8) for at in range(7)], units(rng, 7, 8)


def slow(descriptions, experts, families, chosen):
    return sorted(
        max(float(vector @ other) for other, one in zip(experts, families, strict=True) if one != families[at])
        for at in chosen
        for vector in descriptions[at]
    )


def test_each_description_meets_the_nearest_of_another_family(zoo):
    made = left_out_similarities(*zoo, FAMILIES)
    assert made.left_out == pytest.approx(slow(*zoo, FAMILIES, range(7)), abs=2e-6)
    assert made.own == ()
    with_family = [max(float(v @ e) for e in zoo[1]) for each in zoo[0] for v in each]
    assert sum(made.left_out) < sum(with_family)


def test_of_many_experts_some_are_compared_with_all(zoo, monkeypatch):
    monkeypatch.setattr(left_out, "MOST", 3)
    assert left_out_similarities(*zoo, FAMILIES).left_out == pytest.approx(slow(*zoo, FAMILIES, (0, 3, 6)), abs=2e-6)


def test_few_families_tell_nothing(zoo):
    assert left_out_similarities(*zoo, ("a", "a", "b", "c", "d", "d", "d")) is None
