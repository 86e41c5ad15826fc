"""Pulls the network back to where it was: evenly, or by how much each weight matters for what was known.

L2 and EWC (Kirkpatrick et al. 2017, arXiv 1612.00796) as rehearsal-free learning compares them (Smith et al. 2022,
arXiv 2203.17269). EWC's Fisher information is that of a Gaussian around what the old generator makes of old
descriptions: the mean square of the gradients of -log p(x) for x drawn from it. It needs no old weights.
"""

from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from loragen.continual.session import Session
from loragen.continual.strategy import Begun, Files, Strategy, squared_distance
from loragen.generators.learner import Learner
from loragen.values import MOST_STEPS


@final
class L2(Strategy):
    """An even pull."""

    name: Literal["l2"] = "l2"
    weight: float = Field(1.0, ge=0)
    """λ of λ ‖θ - θ₀‖²."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, and the pull."""
        distance = squared_distance(learner.network)
        return Begun(Session(learner, penalty=lambda: self.weight * distance(), decays=False))


@final
class EWC(Strategy):
    """A pull by Fisher information."""

    name: Literal["ewc"] = "ewc"
    weight: float = Field(1.0, ge=0)
    """λ of λ Σ F (θ - θ₀)²; F is scaled to a mean of 1, so that λ is that of ``l2``."""
    batches: int = Field(100, ge=1, le=MOST_STEPS)
    """Batches that F is estimated from."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, and the pull."""
        distance = squared_distance(learner.network, fisher(learner, self.batches))
        return Begun(Session(learner, penalty=lambda: self.weight * distance(), decays=False))


def fisher(learner: Learner, batches: int) -> dict[str, Tensor]:
    """Parameter → its Fisher information on old descriptions, of the parameter's shape; the mean over all is 1."""
    network, found = learner.network, dict[str, Tensor]()
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    rng, left = torch.Generator().manual_seed(learner.seed), batches
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(learner.seed)
        while left:
            for batch in list(learner.imagine(rng, 1.0))[:left]:
                network.zero_grad(set_to_none=True)
                learner.imitation.loss(batch)["loss"].backward()  # type: ignore[no-untyped-call]
                for name, value in trained.items():
                    grad = torch.zeros_like(value) if value.grad is None else value.grad
                    found[name] = found.get(name, torch.zeros_like(value)) + grad.square()
                left -= 1
    network.zero_grad(set_to_none=True)
    mean = sum(float(value.sum()) for value in found.values()) / sum(value.numel() for value in found.values())
    return {name: value / (mean or 1.0) for name, value in found.items()}
