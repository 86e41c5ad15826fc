"""What every generator is: from a condition and a random source to adapters, with the experts it drew on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from loragen.adapter import Adapter


@dataclass(frozen=True, eq=False)
class Condition:
    """What a generator is told of a task."""

    description: str
    embedding: Tensor
    """Unit embedding of the description by the zoo's text encoder, (c,)."""


@dataclass(frozen=True)
class Neighbour:
    """An expert that a generation drew on."""

    id: str
    similarity: float
    """Cosine between its description and the task's."""
    weight: float
    """Its share in the mixture; the shares of one generation sum to 1."""


@dataclass(frozen=True, eq=False)
class Generation:
    """One generated adapter and where it comes from."""

    adapter: Adapter
    neighbours: tuple[Neighbour, ...]


class AdapterGenerator(ABC):
    """Makes adapters for a condition."""

    name: ClassVar[str]
    is_stochastic: ClassVar[bool]
    """Whether samples of one condition differ."""

    @abstractmethod
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Make ``num_samples`` adapters; the same state of ``rng`` gives the same adapters."""
