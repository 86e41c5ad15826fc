"""Baselines: the mean of all experts, the nearest one, and merges of the nearest, weighted or in equal shares.

All are exact on delta weights (`combine.weighted_sum`) and draw nothing at random.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.conditions.condition import Condition
from loragen.generators.base import DescriptionGenerator, Generation
from loragen.zoo.expert_index import ExpertIndex, Neighbour

MOST_KEPT = 32_000_000
"""Bytes of experts that a merge keeps."""


@dataclass(frozen=True, eq=False)
class Merge(DescriptionGenerator):
    """A weighted sum of experts; subclasses choose the experts and their weights."""

    library: ExpertIndex
    is_stochastic: ClassVar[bool] = False
    _kept: dict[str, Lora] = field(default_factory=dict, init=False, repr=False)
    """Experts that were read before, as far as there is room."""

    def _expert(self, name: str) -> Lora:
        if (kept := self._kept.get(name)) is not None:
            return kept
        read = self.library.zoo.adapter(name)
        size = sum(factor.nbytes for factors in (read.lora_A, read.lora_B) for factor in factors.values())
        if (1 + len(self._kept)) * size <= MOST_KEPT:
            self._kept[name] = read
        return read

    @abstractmethod
    def choose(self, condition: Condition) -> tuple[Neighbour, ...]:
        """The experts to merge."""

    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Merge once; every sample is the same adapter."""
        chosen = self.choose(condition)
        # In the order of ids, not of nearness: sums of floats depend on it, and equal shares are one adapter.
        summands = sorted(chosen, key=lambda neighbour: neighbour.id)
        adapters = [self._expert(neighbour.id) for neighbour in summands]
        merged = weighted_sum(adapters, [neighbour.weight for neighbour in summands])
        return [Generation(merged, chosen)] * num_samples


@dataclass(frozen=True, eq=False)
class Mean(Merge):
    """All experts in equal shares, whatever the condition."""

    name: ClassVar[str] = "mean"

    def choose(self, condition: Condition) -> tuple[Neighbour, ...]:
        """Every expert, nearest first."""
        ids = self.library.zoo.ids
        hits = self.library.index.search(condition.embedding, len(ids))
        return tuple(Neighbour(hit.id, hit.similarity, 1 / len(ids)) for hit in hits)


@dataclass(frozen=True, eq=False)
class Nearest(Merge):
    """The one expert whose description is nearest."""

    name: ClassVar[str] = "nearest"

    def choose(self, condition: Condition) -> tuple[Neighbour, ...]:
        """The nearest expert, with weight 1."""
        return self.library.neighbours(condition.embedding, top_k=1, temperature=1.0)


@dataclass(frozen=True, eq=False)
class TopK(Merge):
    """The nearest experts, weighted by a softmax over their similarities."""

    name: ClassVar[str] = "topk"
    top_k: int = 4
    temperature: float = 0.1

    def choose(self, condition: Condition) -> tuple[Neighbour, ...]:
        """The ``top_k`` nearest experts."""
        return self.library.neighbours(condition.embedding, top_k=self.top_k, temperature=self.temperature)


@dataclass(frozen=True, eq=False)
class Uniform(Merge):
    """The nearest experts in equal shares."""

    name: ClassVar[str] = "uniform"
    top_k: int = 4

    def choose(self, condition: Condition) -> tuple[Neighbour, ...]:
        """The ``top_k`` nearest experts, each with the same weight."""
        return self.library.neighbours(condition.embedding, top_k=self.top_k, temperature=math.inf)
