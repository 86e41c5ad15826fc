"""Sculpting subspaces (Nayak et al. 2025, arXiv 2504.07097): what a layer does most stays, the rest learns.

PEFT's OSF takes each linear layer apart, W = U S Vᵀ, freezes its first directions and trains the others, whose
gradients it keeps out of the frozen ones. Adam scales gradients element by element, which leads out of that space
again, so here the trained factors are projected after every step as well. What is no linear layer stays as it is.
"""

import re
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from loragen.continual.session import Session
from loragen.continual.strategy import Begun, Files, Strategy, freeze_rest, linear_layers
from loragen.errors import ConfigError
from loragen.generators.learner import Learner

_NAME = "sculpted"


@final
class OSF(Strategy):
    """Directions of each layer that stay."""

    name: Literal["osf"] = "osf"
    share: float = Field(0.5, gt=0, lt=1)
    """Of a layer's directions, the first that stay; the paper raises it from task to task, .3, .5, .7 for three."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, in the directions that are free."""
        layers = {name: layer for name, layer in linear_layers(learner.network).items() if min(layer.weight.shape) > 1}
        if not layers:
            raise ConfigError("The generator's network has no linear layer with directions to keep.")
        freeze_rest(learner.network)
        sculpted = Sculpted(learner.network, layers, self.share)
        session = Session(learner, decays=False, after_step=sculpted.project, finish=sculpted.fold)
        return Begun(session)


class Sculpted:
    """Linear layers of a network under PEFT's OSF."""

    def __init__(self, network: nn.Module, layers: dict[str, nn.Linear], share: float) -> None:
        from peft import OSFConfig, inject_adapter_in_model

        self.network, self.plain = network, layers
        ranks = {name: max(1, round(share * min(layer.weight.shape))) for name, layer in layers.items()}
        self.high = {name: _first(layer.weight, ranks[name]) for name, layer in layers.items()}
        config = OSFConfig(
            target_modules="|".join(map(re.escape, layers)),
            rank_pattern={f"^{re.escape(n)}$": r for n, r in ranks.items()},
        )
        inject_adapter_in_model(config, network, adapter_name=_NAME)

    def project(self) -> None:
        """Take what Adam added in frozen directions out of the trained factors."""
        for name, (u, v) in self.high.items():
            sculpted: Any = self.network.get_submodule(name)
            factors = sculpted.osf_svd_params[_NAME]
            factors["U_low"] -= u @ (u.T @ factors["U_low"])
            factors["V_low"] -= (factors["V_low"] @ v.T) @ v

    @torch.no_grad()
    def fold(self) -> None:
        """Put plain layers with the trained weights back."""
        for name, layer in self.plain.items():
            sculpted: Any = self.network.get_submodule(name)
            layer.weight += sculpted.get_delta_weight(_NAME).to(layer.weight)
            parent, _, own = name.rpartition(".")
            setattr(self.network.get_submodule(parent), own, layer)


def _first(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The first singular vectors of a weight, (out, rank) and (rank, in)."""
    u, _, v = torch.linalg.svd(weight.detach().float(), full_matrices=False)
    return u[:, :rank].contiguous(), v[:rank].contiguous()
