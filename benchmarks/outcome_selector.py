"""A selector of experts that learns from measured gains; see benchmarks/outcomes.py."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHOICES = tuple((rank, decay) for rank in (0, 4, 16) for decay in (1e-3, 1e-2, 1e-1))
"""Rank of the interaction and weight of the squared sizes of what is learnt."""
SHARPNESS = 0.1
"""Gains, in nats, are divided by this before their softmax."""
FOLDS, STEPS = 5, 300


@dataclass(frozen=True, eq=False)
class Gains:
    """What experts gain on tasks."""

    tasks: Tensor
    """Embeddings of the tasks' descriptions, (t, d)."""
    experts: Tensor
    """Of the experts', (n, d)."""
    values: Tensor
    """(t, n); not a number where it was not measured."""

    def subset(self, rows: Tensor) -> "Gains":
        """Some of the tasks."""
        return Gains(self.tasks[rows], self.experts, self.values[rows])

    def wanted(self) -> tuple[Tensor, Tensor]:
        """Softmax of the gains that were measured, and where."""
        there = ~self.values.isnan()
        return (self.values / SHARPNESS).masked_fill(~there, float("-inf")).softmax(1), there


class Selector(nn.Module):
    """α cos(t, e) + (U t)·(V e) + b."""

    def __init__(self, size: int, experts: int, rank: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.alpha = nn.Parameter(torch.tensor(10.0))
        self.u = nn.Parameter(torch.zeros(rank, size))
        self.v = nn.Parameter(torch.randn(rank, size, generator=rng) / size**0.5)
        self.bias = nn.Parameter(torch.zeros(experts))

    def scores(self, tasks: Tensor, experts: Tensor) -> Tensor:
        """Scores of experts (n, d) for tasks (t, d), (t, n)."""
        return self.alpha * tasks @ experts.T + (tasks @ self.u.T) @ (experts @ self.v.T).T + self.bias

    def size(self) -> Tensor:
        """What decay bears on: all that cosine alone has not."""
        return self.u.square().sum() + self.bias.square().sum()


def loss(selector: Selector, gains: Gains) -> Tensor:
    """Cross-entropy of the scores, among the experts that were measured, to the softmax of the gains."""
    wanted, there = gains.wanted()
    told = F.log_softmax(selector.scores(gains.tasks, gains.experts).masked_fill(~there, float("-inf")), dim=1)
    return -(wanted * told.masked_fill(~there, 0.0)).sum(1).mean()


def fit_selector(gains: Gains, rank: int, decay: float) -> Selector:
    """Fit a selector by Adam over all tasks at once."""
    selector = Selector(gains.tasks.shape[1], len(gains.experts), rank)
    optimizer = torch.optim.Adam(selector.parameters(), lr=0.02)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (loss(selector, gains) + decay * selector.size()).backward()
        optimizer.step()
    return selector.requires_grad_(False)


def chosen_by_left_out(gains: Gains) -> tuple[tuple[int, float], dict[tuple[int, float], float]]:
    """The choice of least loss on tasks that were left out, and the loss of each choice."""
    order = torch.randperm(len(gains.tasks), generator=torch.Generator().manual_seed(0))
    folds = [order[at::FOLDS] for at in range(min(FOLDS, len(order)))]
    found = {}
    for choice in CHOICES:
        losses = []
        for fold in folds:
            rest = torch.tensor([at for at in order.tolist() if at not in set(fold.tolist())], dtype=torch.long)
            losses.append(float(loss(fit_selector(gains.subset(rest), *choice), gains.subset(fold))))
        found[choice] = sum(losses) / len(losses)
    return min(found, key=found.__getitem__), found
