"""SMoRA (arXiv 2501.15103, KDD 2026): each token is routed to a few ranks, and a bias keeps their use even.

p = sigmoid(W x), a number a rank, q = p + bias; the k largest q are kept, and g = k q / Σ q on them. There is no loss
for balance: after every step of training, bias += u · sign(mean use − use).

The published code mixes with the biased q; a bias is more often kept for the choice alone, which is what
`biased_weights: false` does. Here the experts are frozen and concatenated, and the router alone is trained, or all of
it with `train_experts`.
"""

from collections.abc import Mapping, MutableMapping

import torch
from pydantic import Field
from torch import Tensor

from loragen.adapters.rank_gate import Gate, GatedUpdate
from loragen.compose.experts import Experts, SiteExperts
from loragen.compose.joint import factor_parameters, gate_tensors, updates_with, with_parameters
from loragen.compose.settings import Made, Making, TrainedSettings
from loragen.compose.training import small, train_parameters
from loragen.values import LARGEST_LAYER

ROUTER, BIAS = "router", "bias"
Uses = MutableMapping[str, Tensor]
"""Site → how often each gate was chosen."""


class SMoRA(TrainedSettings):
    """Settings of SMoRA."""

    k: int = Field(8, ge=1, le=LARGEST_LAYER)
    """Ranks that a token is routed to; all where there are fewer."""
    partition: int = Field(1, ge=1, le=LARGEST_LAYER)
    """Neighbouring ranks that share a gate."""
    balance: float = Field(1e-3, ge=0, le=1)
    """u, by which biases change after a step; the paper's 1e-5 is for trainings of many thousand steps."""
    biased_weights: bool = True
    """Mix with p + bias, as the published code does, or with p alone."""
    scale: float | None = Field(None, gt=0, le=1000)
    """Factor of all weights; by default such that equal weights of all ranks give the experts' mean."""
    train_experts: bool = False
    """Train all experts' factors along with the router."""


def make_smora(making: Making, settings: SMoRA) -> Made:
    """Train the router on labelled texts of all tasks."""
    experts, rng = making.experts.canonical(), making.rng()
    uses: dict[str, Tensor] = {}
    biases = {f"{BIAS}.{site}": torch.zeros(_gates_at(at, settings)) for site, at in experts.sites.items()}
    begin = {
        f"{ROUTER}.{site}": small((_gates_at(at, settings), at.lora_A.shape[1]), rng=rng)
        for site, at in experts.sites.items()
    }
    if settings.train_experts:
        begin |= factor_parameters(experts)

    def updates(parameters: Mapping[str, Tensor]) -> dict[str, GatedUpdate]:
        return updates_with(experts, parameters, _gates(experts, settings, {**parameters, **biases}, uses))

    def rebalance(_step: int) -> None:
        for site, use in uses.items():
            biases[f"{BIAS}.{site}"] += settings.balance * (use.mean() - use).sign()
        uses.clear()

    trained = train_parameters(making, settings, begin, updates, on_step=rebalance)
    return Made(with_parameters(experts, trained), tensors=gate_tensors(trained) | biases)


def smora_gates(experts: Experts, settings: SMoRA, tensors: Mapping[str, Tensor]) -> dict[str, Gate]:
    """Site → gate."""
    return _gates(experts, settings, tensors, None)


def _gates(experts: Experts, settings: SMoRA, tensors: Mapping[str, Tensor], uses: Uses | None) -> dict[str, Gate]:
    return {
        site: _gate(site, at, settings, tensors[f"{ROUTER}.{site}"], tensors[f"{BIAS}.{site}"], uses)
        for site, at in experts.sites.items()
    }


def _gates_at(at: SiteExperts, settings: SMoRA) -> int:
    return -(-len(at.lora_A) // settings.partition)


def _gate(site: str, at: SiteExperts, settings: SMoRA, router: Tensor, bias: Tensor, uses: Uses | None) -> Gate:
    ranks = len(at.lora_A)
    kept = min(max(1, settings.k // settings.partition), len(router))
    scale = ranks / (len(at.ranks) * kept * settings.partition) if settings.scale is None else settings.scale

    def gate(x: Tensor, _coordinates: Tensor) -> Tensor:
        p = torch.sigmoid(x @ router.to(x).T)
        weights, chosen = routed(p, bias.to(x), kept, biased_weights=settings.biased_weights)
        if uses is not None:
            count = chosen.detach().flatten(0, -2).sum(0).float().cpu()
            uses[site] = uses.get(site, torch.zeros_like(count)) + count
        spread = weights.repeat_interleave(settings.partition, dim=-1)[..., :ranks]
        return scale * spread

    return gate


def routed(p: Tensor, bias: Tensor, k: int, *, biased_weights: bool) -> tuple[Tensor, Tensor]:
    """G (..., r), which sums to k, and which are chosen, from sigmoids p (..., r) and a bias (r,)."""
    q = p + bias
    indices = q.topk(k, dim=-1).indices
    chosen = torch.zeros_like(q, dtype=torch.bool).scatter(-1, indices, True)
    mixed = (q if biased_weights else p).clamp_min(0.0) * chosen
    return k * mixed / mixed.sum(-1, keepdim=True).clamp_min(1e-12), chosen


def smora_shapes(experts: Experts, settings: SMoRA) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the tensors by name."""
    found: dict[str, tuple[int | None, ...]] = {}
    for site, at in experts.sites.items():
        number = _gates_at(at, settings)
        found |= {f"{ROUTER}.{site}": (number, at.lora_A.shape[1]), f"{BIAS}.{site}": (number,)}
    return found
