"""I-LoRA's two memories (Ren et al. 2024, arXiv 2402.18865): a fast network that learns, and a slow one that is kept.

The slow one follows as an exponential mean, φ ← α φ + (1 - α) θ with α = min(1 - 1/(t + 1), ``alpha``). On replayed
experts what the layers of the fast network give is drawn to the larger of both networks' values, element by element.
The published code has α = .25, so that the slow copy moves by three quarters a step. There, the memories are LoRAs;
here they are the generator's own weights.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from loragen.continual.session import Session
from loragen.continual.strategies.replay import buffered
from loragen.continual.strategy import Begun, Files, Strategy, linear_layers
from loragen.generators.learner import Learner
from loragen.training.objective import Batch, Objective


@final
class ILora(Strategy):
    """Dual memory with replay."""

    name: Literal["ilora"] = "ilora"
    alpha: float = Field(0.99, ge=0, lt=1)
    """Most of the slow memory's inertia."""
    weight: float = Field(1.0, ge=0)
    """λ of the mean squared difference of the layers."""
    budget: int = Field(1_000_000, ge=0, le=10**11)
    """Bytes of the old experts kept."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, replayed ones, and a slow copy that takes the network's place in the end."""
        memory = SlowMemory(learner, self.alpha)
        session = Session(
            learner,
            replayed=buffered(learner, self.budget),
            beside=lambda batch: self.weight * memory.difference(batch),
            extra=memory,
            after_step=memory.follow,
            finish=memory.recall,
        )
        return Begun(session)


class SlowMemory(nn.Module):
    """The slow copy of a learner's network."""

    steps: Tensor

    def __init__(self, learner: Learner, alpha: float) -> None:
        super().__init__()
        self._fast = (learner.objective, learner.network)  # in a tuple: they are trained, this copy is not
        slow = copy.deepcopy(learner.objective)
        self.slow: Objective = slow.requires_grad_(False)
        self.alpha = alpha
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def network(self) -> nn.Module:
        """The slow network: the module of the copied objective that is at the fast network's place."""
        objective, network = self._fast
        name = next(name for name, module in objective.named_modules() if module is network)
        return self.slow.get_submodule(name)

    @torch.no_grad()
    def follow(self) -> None:
        """One step of the mean."""
        self.steps += 1
        inertia = min(1 - 1 / (int(self.steps) + 1), self.alpha)
        for slow, fast in zip(self.network.parameters(), self._fast[1].parameters(), strict=True):
            slow.lerp_(fast.to(slow), 1 - inertia)
        for kept, buffer in zip(self.network.buffers(), self._fast[1].buffers(), strict=True):
            kept.copy_(buffer)

    def difference(self, batch: Batch) -> Tensor:
        """Mean squared difference of the fast layers' outputs from the larger of both networks', on one batch."""
        objective, network = self._fast
        state = torch.get_rng_state()
        with _outputs(network) as fast:
            objective.loss(batch)
        after = torch.get_rng_state()
        torch.set_rng_state(state)  # both draw the same
        with torch.no_grad(), _outputs(self.network) as slow:
            self.slow.loss(batch)
        torch.set_rng_state(after)
        parts = [
            (own - torch.maximum(own.detach(), other)).square().mean() for own, other in zip(fast, slow, strict=True)
        ]
        return torch.stack(parts).mean()

    @torch.no_grad()
    def recall(self) -> None:
        """Give the network the slow weights."""
        self._fast[1].load_state_dict(self.network.state_dict())


@contextmanager
def _outputs(network: nn.Module) -> Iterator[list[Tensor]]:
    """What the linear layers give, in the order in which they are called."""
    found: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for layer in linear_layers(network).values()
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
