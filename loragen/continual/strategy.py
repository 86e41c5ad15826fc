"""The interface of strategies, and what several of them share."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from loragen.config import StrictModel
from loragen.continual.session import Session
from loragen.generators.learner import Learner

Files = Mapping[str, bytes]
"""Files by name."""


@dataclass(frozen=True, eq=False)
class Begun:
    """An update that was begun."""

    session: Session
    files: dict[str, bytes] = field(default_factory=dict)
    """Filled as the training ends: what is kept in the generator's folder for the next update."""


class Strategy(StrictModel):
    """Options of a strategy."""

    @abstractmethod
    def begin(self, learner: Learner, kept: Files) -> Begun:
        """Settle how a learner is trained.

        Args:
            learner: its network is the old one until the session is fitted.
            kept: files that an earlier update by the same strategy left in the generator's folder.

        Raises:
            ConfigError: the strategy cannot work on this generator, or lacks what it reads.
        """


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers of a network by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}


def freeze_rest(network: nn.Module) -> None:
    """Freeze whatever is no weight of a linear layer, running means of normalisations included."""
    weights = {id(layer.weight) for layer in linear_layers(network).values()}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in weights)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0


def reservoir(rows: tuple[int, ...], capacity: int, *, rng: torch.Generator) -> tuple[int, ...]:
    """A sample of rows that pass one by one, each as likely to stay (Vitter 1985, algorithm R), in ascending order."""
    kept: list[int] = []
    for passed, row in enumerate(rows):
        if len(kept) < capacity:
            kept.append(row)
        elif (at := int(torch.randint(passed + 1, (), generator=rng))) < capacity:
            kept[at] = row
    return tuple(sorted(kept))


def squared_distance(network: nn.Module, weights: Mapping[str, Tensor] | None = None) -> "Distance":
    """The squared distance of a network's parameters from where they are now, elementwise by ``weights``."""
    return Distance(network, weights)


class Distance:
    """Σ w (θ - θ₀)², over all that is trained."""

    def __init__(self, network: nn.Module, weights: Mapping[str, Tensor] | None = None) -> None:
        self.network, self.weights = network, weights
        self.begun = {name: value.detach().clone() for name, value in network.named_parameters()}

    def __call__(self) -> Tensor:
        """The sum, differentiable."""
        parts = []
        for name, value in self.network.named_parameters():
            squares = (value - self.begun[name].to(value)).square()
            parts.append((squares if self.weights is None else squares * self.weights[name].to(value)).sum())
        return torch.stack(parts).sum()
