"""The attention pool of a person's history: from past texts and a description to one vector that weighs experts.

With unit vectors xᵢ of the past texts and d of the description (0 where there is none),

    aᵢ = softmaxᵢ( (K xᵢ) · (u + D d) / √m )                 weights of the long part
    p  = Σ aᵢ xᵢ          h = norm( p + MLP(LN(p)) )         RecLoRA's user vector and gate network, 60 hidden
    s  = norm( mean of the k xᵢ nearest to d, or to h where there is no description )              the short part
    q  = norm( w₁ d + w₂ h + w₃ s )                          w = softmax of three numbers

and a generator's weights of its experts follow from q as from a description's embedding: softmax over the nearest
of cos(q, eₖ) / T, the same number for all ranks of an expert. After RecLoRA (arXiv 2408.03533), whose gate is
softmax(MLP(LN(h)) / T) over a fixed list of adapters; here experts are told by their descriptions, so that a zoo may
grow. RecLoRA's code then mixes A and B of the adapters apart, (Σ gₖ Bₖ)(Σ gₖ Aₖ), which holds products of different
adapters; loragen mixes delta weights.

Untrained, u, D and the MLP's last layer are zero: p is the plain mean of the history, and h its direction.
"""

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from loragen.config import StrictModel
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES

START = (0.5, 0.25, 0.25)
"""Untrained shares of the description, the long part and the short part."""


class PoolConfig(StrictModel):
    """Sizes of the pool; the MLP's are RecLoRA's."""

    short: int = Field(8, ge=1, le=MOST_EXAMPLES)
    """k, texts of the short part."""
    attention_size: int = Field(32, ge=1, le=LARGEST_LAYER)
    """m, features in which texts are compared with what is looked for."""
    hidden_size: int = Field(60, ge=1, le=LARGEST_LAYER)
    """Of the MLP."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """Histories read by a pool."""

    query: Tensor
    """q, (b, c)."""
    long: Tensor
    """h, (b, c)."""
    weights: Tensor
    """aᵢ, (b, n)."""
    short: Tensor
    """Positions of the k nearest texts, the nearest first, (b, k); where there are fewer, the last ones are of no
    text."""


class HistoryPool(nn.Module):
    """Pools histories; begins at the plain mean."""

    def __init__(self, size: int, config: PoolConfig) -> None:
        super().__init__()
        self.config = config
        self.keys = nn.Linear(size, config.attention_size, bias=False)
        self.wanted = nn.Parameter(torch.zeros(config.attention_size))
        self.wanted_of_description = nn.Linear(size, config.attention_size, bias=False)
        self.norm = nn.LayerNorm(size)
        self.first = nn.Linear(size, config.hidden_size)
        self.last = nn.Linear(config.hidden_size, size)
        self.shares = nn.Parameter(torch.tensor(START).log())
        for zero in (self.wanted_of_description.weight, self.last.weight, self.last.bias):
            nn.init.zeros_(zero)

    @classmethod
    def untrained(cls, size: int, config: PoolConfig | None = None) -> Self:
        """A pool of vectors of a size that takes plain means; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return cls(size, config or PoolConfig()).eval().requires_grad_(False)

    def read_one(self, items: Tensor, description: Tensor | None) -> Pooled:
        """Pool one history (n, c) beside a description's embedding (c,), if there is one."""
        described = torch.tensor([description is not None])
        given = torch.zeros(items.shape[1]) if description is None else description
        return self.read(items[None], torch.ones(1, len(items), dtype=torch.bool), given[None], described)

    def read(self, items: Tensor, present: Tensor, description: Tensor, described: Tensor) -> Pooled:
        """Pool a batch of histories.

        Args:
            items: unit vectors of the texts, (b, n, c).
            present: which of them there are, (b, n); at least one of each history.
            description: unit embeddings, (b, c).
            described: which histories have a description, (b,).
        """
        given = description * described[:, None]
        wanted = self.wanted + self.wanted_of_description(given)
        scores = (self.keys(items) @ wanted[..., None])[..., 0] / math.sqrt(self.config.attention_size)
        weights = scores.masked_fill(~present, -torch.inf).softmax(1)
        mean = (weights[..., None] * items).sum(1)
        long = F.normalize(mean + self.last(F.relu(self.first(self.norm(mean)))), dim=1)
        towards = torch.where(described[:, None], given, long)
        nearness = (items @ towards.detach()[..., None])[..., 0].masked_fill(~present, -torch.inf)
        near, short = nearness.topk(min(self.config.short, items.shape[1]), dim=1)
        nearest = items.gather(1, short[..., None].expand(-1, -1, items.shape[2])) * near.isfinite()[..., None]
        parts = torch.stack([given, long, F.normalize(nearest.sum(1), dim=1)], 1)
        absent = torch.stack([~described, *[torch.zeros_like(described)] * 2], 1)
        shares = self.shares.expand(len(items), 3).masked_fill(absent, -torch.inf).softmax(1)
        return Pooled(F.normalize((shares[..., None] * parts).sum(1), dim=1), long, weights, short)
