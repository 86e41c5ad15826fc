"""Diagonal Gaussians, as the latent variables of the CVAEs have them."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A diagonal Gaussian, (..., latent)."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def standard(cls, like: Tensor) -> Self:
        """N(0, I) of the shape and on the device of ``like``."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def sample(self, noise: Tensor, *, scale: float = 1.0) -> Tensor:
        """The point at standard normal ``noise``."""
        return self.mean + scale * noise * (0.5 * self.log_variance).exp()

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self ‖ other), in nats, summed over the latent dimension."""
        ratio = (self.log_variance - other.log_variance).exp()
        shift = (self.mean - other.mean).square() / other.log_variance.exp()
        return 0.5 * (ratio + shift - 1 + other.log_variance - self.log_variance).sum(-1)
