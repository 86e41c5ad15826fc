"""Learns in the null space of old inputs: what a linear layer gives for old descriptions stays the same.

For the inputs X (n, in) that a layer gets when the old generator reads old descriptions, the update of its weight is
kept to ΔW (I - V Vᵀ) after every step, with V the first right singular vectors of X. After Brainstacks (arXiv
2604.01152), which keeps what one expert writes out of what others write; there the directions are of outputs and are
applied to an adapter, here of inputs and to the generator. Layers behind others get other inputs as soon as anything
before them has learnt, so the guarantee is a layer's, not the network's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from loragen.continual.session import Session
from loragen.continual.strategy import Begun, Files, Strategy, freeze_rest, linear_layers
from loragen.errors import ConfigError
from loragen.generators.learner import Learner


@final
class NullSpace(Strategy):
    """Directions of each layer's inputs that are protected."""

    name: Literal["nullspace"] = "nullspace"
    energy: float = Field(0.99, gt=0, le=1)
    """Share of the inputs' squared norm that is protected."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, in the directions that old inputs do not have."""
        layers = linear_layers(learner.network)
        if not layers:
            raise ConfigError("The generator's network has no linear layer, so nothing has a null space.")
        protected = protected_inputs(learner, self.energy)
        freeze_rest(learner.network)
        begun = {name: layer.weight.detach().clone() for name, layer in layers.items()}

        def project() -> None:
            for name, layer in layers.items():
                v = protected[name].to(layer.weight)
                change = layer.weight - begun[name].to(layer.weight)
                layer.weight.copy_(begun[name].to(layer.weight) + change - (change @ v) @ v.T)

        return Begun(Session(learner, decays=False, after_step=project))


@torch.no_grad()
def protected_inputs(learner: Learner, energy: float) -> dict[str, Tensor]:
    """Layer → the directions of its inputs on old descriptions that hold a share of their energy, (in, k)."""
    network, was_training = learner.network, learner.network.training
    network.eval()
    rng = torch.Generator().manual_seed(learner.seed)
    with torch.random.fork_rng(devices=[]), _second_moments(network) as moments:
        torch.manual_seed(learner.seed)
        for batch in learner.imagine(rng, 0.0):
            learner.imitation.loss(batch)
    network.train(was_training)
    return {name: _leading(moment, energy) for name, moment in moments.items()}


def _leading(moment: Tensor, energy: float) -> Tensor:
    values, vectors = torch.linalg.eigh(moment)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    number = 0
    if float(values.sum()):
        held = values.cumsum(0) / values.sum()
        number = min(len(values), int((held < energy - 1e-9).sum()) + 1)
    leading: Tensor = vectors[:, :number].contiguous()
    return leading


@contextmanager
def _second_moments(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """XᵀX of the inputs of each linear layer, float64 (in, in)."""
    found: dict[str, Tensor] = {}

    def adds(name: str) -> Callable[..., None]:
        def hook(layer: nn.Linear, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
            rows = inputs[0].reshape(-1, layer.in_features).double()
            found[name] = found.get(name, rows.new_zeros(layer.in_features, layer.in_features)) + rows.T @ rows

        return hook

    layers = linear_layers(network)
    hooks = [layer.register_forward_hook(adds(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        for name, layer in layers.items():  # one that old descriptions do not reach
            found.setdefault(name, torch.zeros(layer.in_features, layer.in_features, dtype=torch.float64))
