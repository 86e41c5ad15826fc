"""The rank gate: ΔW x = B diag(g) A x, one primitive for many ways to train, cut and mix adapters.

Experts concatenated along the rank axis are one pair of factors, A = [A₁; …; Aₙ] and B = [B₁, …, Bₙ]; methods differ in
g alone. A constant g folds into an ordinary adapter exactly; one that is computed from the input does not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.errors import AdapterError

Gate = Callable[[Tensor, Tensor], Tensor]
"""From the input x (..., in) and A x (..., r) to the gate (..., r)."""


@final
@dataclass(frozen=True, eq=False)
class GatedUpdate:
    """The update of one site: A (r, in), scaling · B (out, r), and a gate on the r coordinates between them."""

    lora_A: Tensor
    lora_B: Tensor
    gate: Tensor | Gate
    """Constant, (r,), or computed from each input."""

    def __post_init__(self) -> None:
        r = len(self.lora_A)
        if self.lora_B.shape[1] != r or (isinstance(self.gate, Tensor) and self.gate.shape != (r,)):
            met = tuple(self.gate.shape) if isinstance(self.gate, Tensor) else "computed"
            raise AdapterError(
                f"A gate ({met}) goes with lora_A (r, in) and lora_B (out, r) of one r; met {tuple(self.lora_A.shape)} "
                f"and {tuple(self.lora_B.shape)}."
            )

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
        coordinates = F.linear(x, self.lora_A.to(x))
        gate = self.gate if isinstance(self.gate, Tensor) else self.gate(x, coordinates)
        return F.linear(coordinates * gate.to(x), self.lora_B.to(x))

    def folded(self) -> tuple[Tensor, Tensor]:
        """A and scaling · B of the ordinary adapter that a constant gate makes; ranks whose gate is 0 are cut.

        One rank of zeros is left where all are cut, since an adapter has at least one.

        Raises:
            AdapterError: the gate is computed from the input.
        """
        if not isinstance(self.gate, Tensor):
            raise AdapterError("A gate that is computed from the input does not fold into an adapter; keep it beside.")
        gate = self.gate.detach()
        kept = gate.nonzero().flatten() if gate.any() else gate.new_zeros(1, dtype=torch.long)
        return self.lora_A.detach()[kept].clone(), (self.lora_B.detach() * gate)[:, kept].clone()


def concatenated(factors: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Pairs of A (rᵢ, in) and scaling · B (out, rᵢ) of one site along the rank axis: (Σ rᵢ, in) and (out, Σ rᵢ)."""
    return torch.cat([a for a, _ in factors]), torch.cat([b for _, b in factors], dim=1)


def block_gate(weights: Tensor, ranks: Sequence[int]) -> Tensor:
    """The gate (..., Σ rᵢ) that gives every coordinate the weight (..., n) of its expert."""
    return weights.repeat_interleave(torch.tensor(ranks, device=weights.device), dim=-1)
