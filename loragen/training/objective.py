"""What a training run works on: an objective, and batches that move between devices."""

from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class Batch(Protocol):
    """What an objective computes its loss on."""

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        ...


class Objective(nn.Module):
    """A module with the loss of a batch."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Scalar tensors by name; the one called ``loss`` is minimised, the others are kept in the history."""
        raise NotImplementedError
