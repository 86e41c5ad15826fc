"""What every generator is: from a condition and a random source to adapters, with the experts it drew on."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from loragen.adapter import Adapter
from loragen.task_vectors import Evidence, Reading


@dataclass(frozen=True, eq=False)
class Condition:
    """What a generator is told of a task."""

    description: str
    embedding: Tensor
    """Unit embedding of the description by the zoo's text encoder, (c,)."""
    task_vectors: Mapping[Evidence, Tensor] = field(default_factory=dict)
    """Task vectors (h,) by what they were read from, for generators with a ``reading``."""
    own_adapter: Adapter | None = None
    """An adapter trained on the very task: only for what a paper's own setting needs, never for an unseen task."""


@dataclass(frozen=True)
class Neighbour:
    """An expert that a generation drew on."""

    id: str
    similarity: float
    """Cosine between its description and the task's."""
    weight: float
    """Its share in the mixture; the shares of one generation sum to 1, and ridge regression has negative ones."""


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

    @property
    def reading(self) -> Reading | None:
        """How the task vectors it wants are read; `None` where the description's embedding is all it uses."""
        return None

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What those task vectors may be read from; what is not among it must not be given."""
        return ()

    @abstractmethod
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Make ``num_samples`` adapters; the same state of ``rng`` gives the same adapters."""
