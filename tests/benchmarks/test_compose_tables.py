"""The tables and checks of the benchmark of compositions, and the selector that learns from measured gains."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import outcome_selector
from compose_tables import below_uniform, checks, tables
from outcome_selector import Gains, Selector, chosen_by_left_out, fit_selector, loss


def row(accuracy, value=1.0):
    return {"accuracy": accuracy, "loss": value, "experts_active": 2.0, "milliseconds": None, "texts": 60}


ROWS = {
    "base": row(0.3, 3.0),
    "greedy experts a text (oracle)": row(None, 1.0),
    "best single expert": row(0.5),
    "uniform": row(0.5),
    "arrow": row(0.55),
    "mora": row(0.545),
    "smora": row(0.49),
    "brainstacks": row(0.52, 1.1),
}


def test_checks_hold_as_they_were_set():
    told = checks(ROWS)
    assert "* holds: mora is not more than a point below arrow (-0.005)" in told
    assert "**does not hold**: smora is not below uniform (-0.010)" in told
    assert "* holds: brainstacks is a point above the best single expert (+0.020)" in told
    assert "* holds: brainstacks has nine tenths of the greedy oracle's gain in loss (0.95)" in told
    assert checks({"base": row(0.3)}) == ""


def test_missing_figures_are_left_blank():
    assert "| greedy experts a text (oracle) |  | 1.000 | 2.0 |  |" in tables({"families": ROWS})
    assert "Six families, 60 texts" in tables({"families": ROWS})


def test_methods_below_uniform_in_every_set_are_experimental():
    other = ROWS | {"smora": row(0.6)}
    assert below_uniform({"families": ROWS}, ("mora", "smora")) == ["smora"]
    assert below_uniform({"families": ROWS, "domains": other}, ("mora", "smora")) == []
    assert below_uniform({}, ("mora",)) == []


@pytest.fixture
def gains():
    """Gains that follow the first coordinate of the experts and not the cosine; a third was not measured."""
    rng = torch.Generator().manual_seed(0)
    tasks, experts = (torch.nn.functional.normalize(torch.randn(n, 6, generator=rng)) for n in (30, 8))
    values = 0.3 * experts[:, 0].expand(30, -1).clone()
    return Gains(tasks, experts, values.masked_fill(torch.rand(30, 8, generator=rng) < 0.3, float("nan")))


def experts_by_gain(gains):
    return int(gains.values.nanmean(0).argmax())


def test_a_selector_learns_who_helps_all(gains, monkeypatch):
    monkeypatch.setattr(outcome_selector, "STEPS", 120)
    monkeypatch.setattr(outcome_selector, "CHOICES", ((0, 1e-3), (2, 1e-1)))
    before = loss(Selector(6, 8, 0), gains)
    learnt = fit_selector(gains, 0, 1e-3)
    assert loss(learnt, gains) < 0.7 * before
    measured_best = experts_by_gain(gains)
    assert int(learnt.bias.argmax()) == measured_best
    (choice, by_choice) = chosen_by_left_out(gains)
    assert by_choice[choice] == min(by_choice.values())
    assert by_choice[choice] < float(before.detach())


def test_what_was_not_measured_does_not_count(gains):
    wanted, there = gains.wanted()
    assert torch.allclose(wanted.sum(1), torch.ones(30))
    assert not wanted[~there].any()
