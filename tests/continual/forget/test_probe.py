"""Figures of what a generator still knows: errors of adapters, the probe, and words for both."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.continual.forget.classes import harmonic
from loragen.continual.forget.probe import Ruler, mean_of, membership
from loragen.continual.forget.report import GeneratorReport, Three

errors = st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=5)


@given(errors, errors)
def test_the_probe_counts_pairs_and_turns_over_with_its_sides(ones: list[float], others: list[float]) -> None:
    found = membership(ones, others)
    counted = [1.0 if one < other else 0.5 if one == other else 0.0 for one in ones for other in others]
    assert found == pytest.approx(sum(counted) / len(counted))
    assert found + membership(others, ones) == pytest.approx(1)


def test_an_error_is_1_at_the_mean_and_0_at_the_expert(tiny_zoo) -> None:
    experts = {name: tiny_zoo.adapter(name) for name in tiny_zoo.ids[:4]}
    ruler = Ruler(experts, mean_of(list(experts.values())))
    name = tiny_zoo.ids[1]
    assert ruler.errors(name, [experts[name], ruler.mean]) == [pytest.approx(0, abs=1e-3), pytest.approx(1)]
    site = ruler.mean.sites[0]
    torch.testing.assert_close(
        ruler.mean.delta_weight(site), torch.stack([each.delta_weight(site) for each in experts.values()]).mean(0)
    )
    assert ruler.apart(name, [ruler.mean], [experts[name]]) == pytest.approx(1)


def test_the_report_says_how_far_it_went() -> None:
    facts = {"generator": "sg", "edit": None, "layers": 5, "zero": ("a",), "bound": 1.0, "unlisted": 0.2, "unseen": 9}
    three = Three(0.1, 0.8, 0.9)
    report = GeneratorReport(
        forgotten=three,
        remaining=three,
        membership=three,
        to_gold=Three(1.0, 0.25),
        remaining_to_gold=Three(0.1, 0.1),
        **facts,
    )
    assert report.nearness == 0.75
    told = "\n".join(report.sentences())
    assert "0.10 → 0.80 (trained without it: 0.90)" in told
    for words in ("75% of the way", "changed: 4 of 5", "9 experts never seen"):
        assert words in told


@pytest.mark.parametrize(("drop", "remaining", "h"), [(0.5, 1.0, 2 / 3), (0, 1, 0), (-0.1, 1, 0), (1, 1, 1)])
def test_h_is_the_harmonic_mean(drop: float, remaining: float, h: float) -> None:
    assert harmonic(drop, remaining) == pytest.approx(h)
