"""The interface of generators: from a condition and a random source to adapters, with the experts drawn on."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Condition
from loragen.conditions.task_vectors import EvidenceKind, Reading
from loragen.zoo.expert_index import Neighbour


@dataclass(frozen=True, eq=False)
class Generation:
    """One generated adapter and where it comes from."""

    adapter: Lora
    neighbours: tuple[Neighbour, ...]


class Generator(ABC):
    """A source of adapters for conditions."""

    name: ClassVar[str]
    is_stochastic: ClassVar[bool]
    """True if samples of one condition differ."""

    @property
    @abstractmethod
    def reading(self) -> Reading | None:
        """Reading of the task vectors it wants; `None` where the description's embedding is all it uses."""

    @property
    @abstractmethod
    def evidence(self) -> tuple[EvidenceKind, ...]:
        """Kinds of evidence that those task vectors are read from."""

    @abstractmethod
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Generate ``num_samples`` adapters; the same state of ``rng`` gives the same adapters."""


class DescriptionGenerator(Generator):
    """A generator that reads nothing but the embedding of the description."""

    @property
    def reading(self) -> Reading | None:
        """None: there are no task vectors."""
        return None

    @property
    def evidence(self) -> tuple[EvidenceKind, ...]:
        """None: there are no task vectors."""
        return ()
