"""Which experts help which texts, measured: the smallest loss over subsets of experts, found greedily.

Brainstacks (arXiv 2604.01152): for each text the expert of the least loss, then further ones as long as one lowers the
loss by more than a least gain. Losses of a text and a subset are computed once, for all texts at that subset together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.compose.experts import Experts
from loragen.compose.switching import put_on, updates_of

Subset = tuple[int, ...]
"""Numbers of experts, ascending; empty for the bare base."""
LossesOf = Callable[[Subset, Sequence[int]], Tensor]
"""From a subset of experts and numbers of texts to their losses, (texts,)."""


@final
@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a discovery found."""

    subsets: tuple[Subset, ...]
    """Of each text."""
    losses: Tensor
    """Of each text under its subset, (n,)."""
    base_losses: Tensor
    """Of each text under the bare base, (n,)."""
    single_losses: Tensor
    """Of each text under each expert alone, (n, experts)."""

    def targets(self, number: int) -> Tensor:
        """1 where an expert is in a text's subset, (n, experts)."""
        found = torch.zeros(len(self.subsets), number)
        for row, subset in zip(found, self.subsets, strict=True):
            row[list(subset)] = 1.0
        return found

    @property
    def gain(self) -> float:
        """By how much the subsets lower the mean loss of the bare base."""
        return float((self.base_losses - self.losses).mean())


def subset_weights(subset: Subset, number: int, *, mean: bool) -> Tensor:
    """The weight of each expert, (number,): 1 for those of a subset, or with ``mean`` equal shares of 1."""
    weights = torch.zeros(number)
    weights[list(subset)] = 1 / len(subset) if mean and subset else 1.0
    return weights


def measured(base: Base, experts: Experts, data: TaskData, *, mean: bool) -> LossesOf:
    """Losses of labelled texts under subsets of experts: cross-entropy, in nats, over the labels of the data."""

    @torch.inference_mode()
    def losses(subset: Subset, texts: Sequence[int]) -> Tensor:
        weights = subset_weights(subset, len(experts), mean=mean)
        gates = {site: at.spread(weights) for site, at in experts.sites.items()}
        part = data.subset(list(texts))
        with put_on(base, updates_of(experts, gates)):
            read = base.read(part)
        return F.cross_entropy(read.logits.float(), read.targets.cpu(), reduction="none")

    return losses


def discover(
    losses: LossesOf,
    texts: int,
    experts: int,
    *,
    least_gain: float,
    most: int,
    progress: Callable[[int], None] = lambda _subsets: None,
) -> Outcomes:
    """Find a subset of experts for each text, greedily.

    Args:
        losses: of texts under a subset.
        texts: their number.
        experts: their number.
        least_gain: by which a further expert must lower a text's loss; the first, that of the bare base.
        most: experts of a subset.
        progress: called with the number of subsets that were measured.
    """
    everyone = list(range(texts))
    seen = 1
    bare = losses((), everyone)
    subsets: list[Subset] = [()] * texts
    best, single = bare.clone(), torch.empty(0)
    active = everyone
    for round_ in range(min(most, experts)):
        candidates = torch.full((texts, experts), float("inf"))
        for subset in sorted({subsets[text] for text in active}):
            rows = [text for text in active if subsets[text] == subset]
            for expert in sorted(set(range(experts)) - set(subset)):
                candidates[rows, expert] = losses(tuple(sorted((*subset, expert))), rows)
                seen += 1
                progress(seen)
        if round_ == 0:
            single = candidates.clone()
        least = candidates.min(1)
        active = [text for text in active if float(best[text] - least.values[text]) > least_gain]
        for text in active:
            subsets[text] = tuple(sorted((*subsets[text], int(least.indices[text]))))
            best[text] = least.values[text]
        if not active:
            break
    return Outcomes(tuple(subsets), best, bare, single)
