"""The two parts of a training run: an objective, and batches that move between devices."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

OptimizerOf = Callable[[float], Optimizer]
"""From a learning rate to an optimiser."""


class Batch(Protocol):
    """Input of an objective's loss."""

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        ...


class Objective(nn.Module, ABC):
    """A module with the loss of a batch.

    Losses are means over the batch's rows, so that those of its parts, averaged, are those of the whole.
    """

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """The same as `loss`; parallel training begins where a module is called."""
        return self.loss(batch)

    @abstractmethod
    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Scalar tensors by name; the one called ``loss`` is minimised, the others are kept in the history."""
