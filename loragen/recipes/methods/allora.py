"""ALLoRA (Huang and Balestriero 2024, 2410.09692): LoRA whose gradients are larger in rows where the update is small.

With ΔW = B A, row i of the update's gradient is multiplied by sᵢ = 1 / sqrt(‖ΔWᵢ‖ + 1 / eta²), which is eta while B is
zero, and falls as the row grows. There is no factor alpha / r and no dropout.
"""

from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor
from torch.autograd.function import once_differentiable

from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, Trainee, train_freely


class ALLoRA(ExpertRecipe):
    """Settings of ALLoRA; A and B are trained."""

    name: str = "allora"
    eta: float = Field(4.0, gt=0, le=1e4)
    """Factor of the gradient while the update is zero. The larger it is, the more it falls as a row grows."""


def row_scales(lora_a: Tensor, lora_b: Tensor, eta: float) -> Tensor:
    """sᵢ = 1 / sqrt(‖(B A)ᵢ‖ + 1 / eta²) for every output feature, (out,); B A is not formed."""
    squared = ((lora_b @ (lora_a @ lora_a.T)) * lora_b).sum(1)
    return (squared.clamp_min(0).sqrt() + eta**-2).rsqrt()  # rounding can push a vanishing norm below zero


@final
class _ScaledGradients(torch.autograd.Function):
    """B A x, whose gradients in A and B are those of rows times a scale; the gradient in x is that of B A x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lora_a: Tensor, lora_b: Tensor, scales: Tensor) -> Tensor:
        """From x (..., in), A (r, in), B (out, r) and scales (out,) to B A x (..., out)."""
        coordinates = F.linear(x, lora_a)
        ctx.save_for_backward(x, coordinates, lora_a, lora_b, scales)
        return F.linear(coordinates, lora_b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """From the output's gradient G to (B A)ᵀ G, Bᵀ diag(s) G xᵀ and diag(s) G (A x)ᵀ."""
        x, coordinates, lora_a, lora_b, scales = ctx.saved_tensors
        of_x = gradient @ lora_b @ lora_a if ctx.needs_input_grad[0] else None
        scaled = (gradient * scales).flatten(0, -2)
        of_a = (scaled @ lora_b).T @ x.flatten(0, -2)
        return of_x, of_a, scaled.T @ coordinates.flatten(0, -2), None


@final
@dataclass(frozen=True, eq=False)
class ScaledUpdate:
    """The update of one site, whose factors get gradients scaled by row."""

    lora_A: Tensor
    lora_B: Tensor
    scales: Tensor
    """(out,), see `row_scales`."""

    @property
    def out_features(self) -> int:
        """Features that the site writes."""
        return len(self.lora_B)

    @property
    def in_features(self) -> int:
        """Features that the site reads."""
        return self.lora_A.shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        """What is added to the site's output for inputs (..., in): (..., out), in the type of ``x``."""
        factors = self.lora_A.to(x), self.lora_B.to(x)
        added: Tensor = _ScaledGradients.apply(x, *factors, self.scales.to(x))  # type: ignore[no-untyped-call]
        return added


@final
class ScaledFactors(Trainee):
    """A and B of every site, both trained by gradients that are scaled by row."""

    def __init__(self, start: Start, eta: float) -> None:
        super().__init__()
        self.free, self.eta = FreeFactors(start), eta

    def updates(self) -> dict[str, ScaledUpdate]:
        """The update of each site, with the scales of its rows as they are now."""
        return {
            site: ScaledUpdate(a, b, row_scales(a.detach(), b.detach(), self.eta))
            for site, (a, b) in self.free.factors().items()
        }

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B."""
        return self.free.factors()


def train_allora(setting: Setting, recipe: ALLoRA) -> Expert:
    """Train A and B."""
    return train_freely(setting, ScaledFactors(setting.start, recipe.eta))
