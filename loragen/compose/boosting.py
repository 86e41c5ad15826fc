"""Residual boosting (Brainstacks, arXiv 2604.01152): an expert is frozen, and another is trained on what it leaves.

A round adds factors of ``r`` ranks to the frozen ones. It is kept if the loss on a held-out slice falls by a least
gain; else it is dropped, and no further one is trained. The rounds together are one adapter of the ranks' sum, which
may be squeezed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.squeeze import remade, squeeze
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.recipes.expert import Start
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule


@final
@dataclass(frozen=True)
class Boosted:
    """An expert after its rounds."""

    adapter: Lora
    losses: tuple[float, ...]
    """On the held-out slice, of the expert as it was and after each round that was kept."""


@final
class _Residual(Objective):
    """The loss of a batch under frozen factors and those in training."""

    def __init__(self, base: Base, frozen: Mapping[str, tuple[Tensor, Tensor]], start: Start) -> None:
        super().__init__()
        self.sites = tuple(frozen)
        self.lora_A = torch.nn.ParameterList([start.lora_A[site].clone() for site in self.sites])
        self.lora_B = torch.nn.ParameterList([start.lora_B[site].clone() for site in self.sites])
        self._frozen = (base, frozen)

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Frozen factors and those in training, joined along the ranks."""
        _, frozen = self._frozen
        joined = {}
        for site, a, b in zip(self.sites, self.lora_A, self.lora_B, strict=True):
            old_a, old_b = frozen[site]
            joined[site] = torch.cat([old_a.to(a), a]), torch.cat([old_b.to(b), b], dim=1)
        return joined

    def loss(self, batch: TaskData) -> dict[str, Tensor]:
        """The base's loss."""
        base, _ = self._frozen
        with base.using(self.factors()):
            return dict(base.losses(batch, contrast_weight=0.0))


def boosted(
    lora: Lora,
    base: Base,
    data: TaskData,
    *,
    rounds: int,
    r: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    least_gain: float,
    rank: int | None,
    rng: torch.Generator,
) -> Boosted:
    """Boost an expert on labelled texts of its task.

    Args:
        lora: the expert, whose sites are named as the base names them.
        base: of the expert.
        data: texts; a fifth of them, at most 128, is held out.
        rounds: the most that are trained.
        r: ranks of each.
        steps: of a round.
        batch_size: texts of a step.
        learning_rate: of AdamW.
        least_gain: by which a round must lower the held-out loss.
        rank: of the result at every site; `None` keeps all ranks.
        rng: draws batches and starts.
    """
    from loragen.training.lightning_fit import fit

    train, held_out = data.split(128, rng=rng)
    current = {site: lora.scaled_factors(site) for site in lora.sites}
    sizes = {site: (len(b), a.shape[1]) for site, (a, b) in current.items()}

    def loss_of(factors: Mapping[str, tuple[Tensor, Tensor]]) -> float:
        with base.using(factors):
            return base.held_out_loss(held_out, contrast_weight=0.0)

    losses = [loss_of(current)]
    for number in range(rounds):
        objective = _Residual(base, current, Start.random(sizes, r, rng=rng))
        drawn = list(train.batches(steps, batch_size, rng=rng))
        fit(objective, partial(_same, drawn), Schedule(1, steps, learning_rate), seed=number)
        found = {site: (a.detach().cpu(), b.detach().cpu()) for site, (a, b) in objective.factors().items()}
        loss = loss_of(found)
        if losses[-1] - loss < least_gain:
            break
        current = found
        losses.append(loss)
    made = remade(lora, {site: a for site, (a, _) in current.items()}, {site: b for site, (_, b) in current.items()})
    return Boosted(made if rank is None else squeeze(made, rank=rank).adapter, tuple(losses))


def _same(batches: Sequence[TaskData], _epoch: int) -> Sequence[TaskData]:
    return batches
