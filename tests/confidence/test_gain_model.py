"""The model of gains: what it finds in made-up tasks, what its interval holds, and what it refuses."""

import pytest
import torch
from pydantic import ValidationError

from loragen.confidence.expected import ExpectedGain
from loragen.confidence.gain_model import GainModel, rank_correlation


def made_up(number=120, *, noise=0.02, seed=0):
    rng = torch.Generator().manual_seed(seed)
    near, size = torch.rand(number, generator=rng), torch.rand(number, generator=rng)
    gains = 0.2 * near - 0.05 + noise * torch.randn(number, generator=rng)
    rows = [{"near": float(n), "size": float(s)} for n, s in zip(near, size, strict=True)]
    return rows, gains.tolist(), [f"family {at // 4}" for at in range(number)]


def test_it_finds_what_gains_follow_and_its_interval_holds_four_in_five_new_tasks():
    model, expected = GainModel.fit(*made_up())
    weights = {figure.name: abs(figure.weight) for figure in model.figures}
    assert weights["near"] > 5 * weights["size"]
    assert model.correlation > 0.85
    assert rank_correlation(torch.tensor(expected), torch.tensor(made_up()[1])) == pytest.approx(
        model.correlation, abs=1e-4
    )
    rows, gains, _ = made_up(400, seed=1)
    told = [model.expect(row, "description") for row in rows]
    held = sum(one.low <= gain <= one.high for one, gain in zip(told, gains, strict=True)) / 400
    assert 0.65 < held < 0.92


def test_noise_is_told_as_noise():
    rows, _, families = made_up()
    gains = (0.05 * torch.randn(len(rows), generator=torch.Generator().manual_seed(3))).tolist()
    model, expected = GainModel.fit(rows, gains, families)
    assert abs(model.correlation) < 0.35
    assert max(expected) - min(expected) < 0.06


def test_a_family_does_not_tell_of_itself():
    """Tasks whose gain is that of their family, which a figure names: other families say nothing of it."""
    gains = [0.3 if at // 4 % 2 else -0.3 for at in range(40)]
    rows = [{"name": float(at // 4)} for at in range(40)]
    own, _ = GainModel.fit(rows, gains, [f"{at // 4}" for at in range(40)])
    assert own.correlation < 0.3


def test_beyond_what_was_seen_a_figure_counts_as_the_last_that_was():
    model, _ = GainModel.fit(*made_up())
    inside, outside = ({"near": near, "size": 0.5} for near in (max(r["near"] for r in made_up()[0]), 50.0))
    assert model.expect(outside, "labels").gain == pytest.approx(model.expect(inside, "labels").gain, abs=1e-3)


def test_it_comes_back_from_text_as_it_was(tmp_path):
    model, _ = GainModel.fit(*made_up())
    (tmp_path / "model.yaml").write_text(model.to_yaml())
    assert GainModel.from_yaml(tmp_path / "model.yaml") == model


def test_ranks_that_are_constant_say_nothing():
    assert rank_correlation(torch.ones(4), torch.arange(4.0)) == 0
    assert rank_correlation(torch.arange(4.0), torch.tensor([1.0, 2.0, 2.0, 9.0])) == pytest.approx(0.9487, abs=1e-3)


def test_an_interval_holds_its_gain():
    with pytest.raises(ValidationError, match="lies outside its interval"):
        ExpectedGain(gain=0.2, low=0.0, high=0.1, knows="texts")
