"""The router of SEMA (arXiv 2403.18886) over LoRAs: each text weighs the experts by the mean of its tokens.

At every site g = softmax(W x̄ + b), a weight an expert, where x̄ is the mean over the tokens of what the site reads. W
and b are trained with the experts frozen. SEMA's own adapters are bottlenecks with a ReLU, which are no LoRAs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from loragen.adapters.rank_gate import Gate, GatedUpdate
from loragen.compose.experts import Experts, SiteExperts
from loragen.compose.settings import Made, Making, TrainedSettings
from loragen.compose.switching import updates_of
from loragen.compose.text_rows import CurrentRows
from loragen.compose.training import small, train_parameters

ROUTER, BIAS = "router", "bias"


class SemaRouter(TrainedSettings):
    """Settings of SEMA's router."""


def make_sema(making: Making, settings: SemaRouter) -> Made:
    """Train a router at every site."""
    experts, rng, current = making.experts, making.rng(), CurrentRows()
    begin = {
        f"{ROUTER}.{site}": small((len(experts), at.lora_A.shape[1]), rng=rng) for site, at in experts.sites.items()
    }
    begin |= {f"{BIAS}.{site}": torch.zeros(len(experts)) for site in experts.sites}

    def updates(parameters: Mapping[str, Tensor]) -> dict[str, GatedUpdate]:
        return updates_of(experts, sema_gates(experts, settings, parameters, current))

    return Made(experts, tensors=train_parameters(making, settings, begin, updates, current=current))


def sema_gates(
    experts: Experts, _settings: SemaRouter, tensors: Mapping[str, Tensor], current: CurrentRows
) -> dict[str, Gate]:
    """Site → gate."""
    return {
        site: _gate(at, tensors[f"{ROUTER}.{site}"], tensors[f"{BIAS}.{site}"], current)
        for site, at in experts.sites.items()
    }


def _gate(at: SiteExperts, router: Tensor, bias: Tensor, current: CurrentRows) -> Gate:
    def gate(x: Tensor, _coordinates: Tensor) -> Tensor:
        rows = current()
        scores = rows.mean(x) @ router.to(x).T + bias.to(x)
        weights = scores.masked_fill(~at.present.to(x.device), float("-inf")).softmax(-1)
        return at.spread(weights)[:, None]

    return gate


def sema_shapes(experts: Experts, _settings: SemaRouter) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the tensors by name."""
    found: dict[str, tuple[int | None, ...]] = {}
    for site, at in experts.sites.items():
        found |= {f"{ROUTER}.{site}": (len(experts), at.lora_A.shape[1]), f"{BIAS}.{site}": (len(experts),)}
    return found
