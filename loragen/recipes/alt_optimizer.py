"""AltLoRA (Yu et al. 2025, 2505.12455): steps of A and B in turn, each preconditioned by the other factor.

With gradients g_A (r, in) and g_B (out, r), damping d and momentum M, one step from (A, B) is

    M_A ← β₁ (BᵀB + dI)⁻¹ Bᵀ B_old M_A + (1 - β₁) (BᵀB + dI)⁻¹ g_A,    A_new = A - lr M_A
    M_B ← β₁ M_B A A_newᵀ (A_new A_newᵀ + dI)⁻¹ + (1 - β₁) g_B (A_new A_newᵀ + dI)⁻¹,    B_new = B - lr M_B

B_old is the B of the step before: both momenta are carried over into the space that the other factor now spans. Without
damping, B A after a step does not depend on how B A is split into factors: (M A, B M⁻¹) gives the same.

At B = 0, where training begins, g_A is zero, so that A stays and B makes the first step. From then on the damping keeps
the steps of A small: g_A = Bᵀ G has a preconditioned norm of at most ‖G‖ / (2 √d), for the gradient G of B A.
"""

from collections.abc import Callable, Iterable
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

EPSILON = 1e-8
"""Added to the root of the second moment, as in Adam."""


@final
class AltLoRA(Optimizer):
    """Optimiser of pairs of factors A (r, in) and B (out, r); both take a step by the gradients of one backward pass.

    Args:
        pairs: A and B of each site.
        lr: learning rate.
        damping: d above; 0 wants B of full rank, which a zero B is not.
        betas: of the momentum, and of the second moment.
        second_moment: AltLoRA+: M over the root of the mean square of the preconditioned gradient, each corrected for
            its start at zero as in Adam. The step then depends on the split into factors.
    """

    def __init__(
        self,
        pairs: Iterable[tuple[Tensor, Tensor]],
        *,
        lr: float,
        damping: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        second_moment: bool = False,
    ) -> None:
        options = {"lr": lr, "damping": damping, "betas": betas, "second_moment": second_moment}
        super().__init__([{"params": [a, b]} for a, b in pairs], options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step; a pair without gradients stays as it is."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lora_a, lora_b = group["params"]
            if lora_a.grad is not None and lora_b.grad is not None:
                self._step(group, lora_a, lora_b, lora_a.grad, lora_b.grad)
        return loss

    def _step(self, group: dict[str, Any], lora_a: Tensor, lora_b: Tensor, g_a: Tensor, g_b: Tensor) -> None:
        of_a, of_b, damping = self.state[lora_a], self.state[lora_b], group["damping"]
        old_a, old_b = lora_a.clone(), of_b.get("before", lora_b)
        by_b = _damped_solver(lora_b.T @ lora_b, damping)
        _move(lora_a, by_b(g_a), of_a, group, lambda m: by_b(lora_b.T @ (old_b @ m)))
        of_b["before"] = lora_b.clone()
        by_a = _damped_solver(lora_a @ lora_a.T, damping)
        _move(lora_b, by_a(g_b.T).T, of_b, group, lambda m: by_a(lora_a @ old_a.T @ m.T).T)


def _damped_solver(gram: Tensor, damping: float) -> Callable[[Tensor], Tensor]:
    """(gram + damping I)⁻¹ times what is given."""
    factor = torch.linalg.cholesky(gram + damping * torch.eye(len(gram), device=gram.device, dtype=gram.dtype))
    return lambda right: torch.cholesky_solve(right, factor)


def _move(
    factor: Tensor,
    gradient: Tensor,
    state: dict[str, Any],
    group: dict[str, Any],
    carried: Callable[[Tensor], Tensor],
) -> None:
    """One step of one factor by its preconditioned gradient; the momentum is first carried over."""
    first, second = group["betas"]
    if "momentum" not in state:
        state["step"] = 0
        state["momentum"] = torch.zeros_like(factor)
        state["squares"] = torch.zeros_like(factor)
    state["step"] += 1
    state["momentum"] = first * carried(state["momentum"]) + (1 - first) * gradient
    if not group["second_moment"]:
        factor.sub_(group["lr"] * state["momentum"])
        return
    state["squares"] = second * state["squares"] + (1 - second) * gradient.square()
    mean = state["momentum"] / (1 - first ** state["step"])
    root = (state["squares"] / (1 - second ** state["step"])).sqrt()
    factor.sub_(group["lr"] * mean / (root + EPSILON))
