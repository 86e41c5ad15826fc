"""Descent on a loss with a group penalty: proximal steps make whole groups of parameters exactly zero.

To minimise F(v) + α Σ ‖v_g‖ over groups g (group lasso, Yuan & Lin 2006; GS-LoRA's structured sparsity), each step goes
down the gradient of F and then shrinks every group by the penalty's proximal operator.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def soft_threshold(group: Sequence[Tensor], threshold: float) -> None:
    """Shrink a group in place: v max(0, 1 - threshold / ‖v‖), the proximal operator of threshold · ‖v‖.

    A group whose norm is at most the threshold becomes exactly zero.
    """
    norm = group_norm(group)
    if norm <= threshold:
        for part in group:
            part.zero_()
    else:
        for part in group:
            part.mul_(1 - threshold / norm)


def group_norm(group: Iterable[Tensor]) -> float:
    """Square root of the sum of squares of all entries."""
    return float(sum(float(part.detach().double().square().sum()) for part in group) ** 0.5)


class GroupDescent(Optimizer):
    """Proximal gradient descent with one step size for all groups, η = lr / √(Σ over steps of ‖∇F‖²).

    That is AdaGrad-Norm's (Ward et al. 2019). Every group's threshold is η · α, and α is in units of the first
    gradient's norm, so that the scale of the loss does not matter.

    A group of factors A and B that has become zero stays so, since both gradients vanish there.
    """

    def __init__(self, groups: Sequence[Sequence[nn.Parameter]], *, lr: float, penalty: float) -> None:
        super().__init__([{"params": list(group)} for group in groups], {"lr": lr, "penalty": penalty})
        self.squares = self.first = 0.0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; a loss is worked out first if a closure is given, as Lightning does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = group_norm(gradients)
        self.first, self.squares = self.first or norm, self.squares + norm**2
        if self.squares > 0:
            for group in self.param_groups:
                size = group["lr"] / self.squares**0.5
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.sub_(parameter.grad, alpha=size)
                soft_threshold(group["params"], size * self.first * group["penalty"])
        return loss
