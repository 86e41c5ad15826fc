"""The penalty's proximal step: its closed form, groups that end at zero, and the mean that keeps them there."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from loragen.continual.forget.factors import LayerChanges, RunningMean
from loragen.continual.forget.proximal import GroupDescent, group_norm, soft_threshold


@given(st.integers(0, 100), st.floats(0, 10))
def test_a_group_is_shrunk_along_itself_by_the_threshold(seed: int, threshold: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    group = [torch.randn(2, 3, generator=rng), torch.randn(4, 2, generator=rng)]
    before = [part.clone() for part in group]
    norm = group_norm(before)
    soft_threshold(group, threshold)
    for part, was in zip(group, before, strict=True):
        torch.testing.assert_close(part, was * max(0.0, 1 - threshold / norm))
    assert (group_norm(group) == 0) == (threshold >= norm)


def test_it_minimises_the_penalty_plus_half_the_square() -> None:
    centre, threshold = torch.tensor([3.0, -4.0]), 2.0
    found = centre.clone()
    soft_threshold([found], threshold)

    def value(v: torch.Tensor) -> float:
        return float(0.5 * (v - centre).square().sum() + threshold * v.norm())

    rng = torch.Generator().manual_seed(0)
    assert all(value(found) <= value(found + 0.1 * torch.randn(2, generator=rng)) for _ in range(50))


def descended(centres: list[torch.Tensor], penalty: float) -> list[torch.Tensor]:
    """Minimisers of half the squared distances to centres plus the penalty of each."""
    groups = [nn.Parameter(torch.full_like(centre, 0.1)) for centre in centres]
    optimizer = GroupDescent([[one] for one in groups], lr=1.0, penalty=penalty)
    for _ in range(600):
        optimizer.zero_grad()
        sum((0.5 * (v - c).square().sum() for v, c in zip(groups, centres, strict=True)), torch.zeros(())).backward()
        optimizer.step()
    return [one.detach() for one in groups]


def test_descent_ends_at_the_closed_form_and_drops_the_weak_group() -> None:
    centres = [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4])]
    first = sum(float((0.1 - c).square().sum()) for c in centres) ** 0.5
    strong, weak = descended(centres, penalty=1.0 / first)  # α = 1
    torch.testing.assert_close(strong, centres[0] * (1 - 1 / 5), atol=1e-3, rtol=1e-3)
    assert (weak == 0).all()


def test_the_mean_of_factors_is_that_of_the_steps_and_zero_where_the_last_are() -> None:
    changes = LayerChanges({"one": (3, 4), "two": (2, 5)}, 2, rng=torch.Generator().manual_seed(0))
    for a, _ in changes.groups:
        torch.testing.assert_close(a @ a.T, torch.eye(2))
    mean = RunningMean(0.9)
    first = {name: (a.detach().clone(), torch.ones_like(b)) for name, (a, b) in changes.factors().items()}
    last = {"one": (first["one"][0], 3 * first["one"][1]), "two": (first["two"][0], 0 * first["two"][1])}
    for factors in (first, last):
        mean.add(factors)
    kept = mean.kept(last)
    assert kept.keys() == {"one"}
    torch.testing.assert_close(kept["one"][1], torch.full_like(kept["one"][1], 0.9 + 0.1 * 3))
