"""MoRA, later MoRAM (arXiv 2506.21035, ICML 2026): rank-1 pairs that are keys and values, and activate themselves.

For z = A x over the ranks ("atoms") of all experts, n = z / ‖z‖₂; the k largest get w = softmax(n / τ), and in use
w = 0 where n < δ. What is added is B (w · z). There is no router.

Post hoc it is a heuristic: the paper trains its atoms through the gate, and `train` does so here, from the experts.
Gates on ranks are not invariant to A → M A, B → B M⁻¹, so experts are put in canonical form first, where a rank is a
singular direction, whose sign is arbitrary: with `signed` false |n| is compared.

As published, w sums to 1 over all atoms, and an atom that is appended changes what the old ones give, even if its own
value is zero: it takes part in the norm and in the softmax. With `norm: block` each expert has a norm, a choice and a
softmax of its own, and is not changed by others.
"""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from loragen.adapters.rank_gate import Gate, GatedUpdate
from loragen.compose.experts import Experts, SiteExperts
from loragen.compose.joint import factor_parameters, updates_with, with_parameters
from loragen.compose.settings import Made, Making, TrainedSettings
from loragen.compose.training import train_parameters
from loragen.values import LARGEST_LAYER


class MoRA(TrainedSettings):
    """Settings of MoRA; those of training bear on ``train`` alone."""

    k: int = Field(16, ge=2, le=LARGEST_LAYER)
    """Atoms that a token activates, of each expert where ``norm`` is ``block``; all where there are fewer."""
    temperature: float | None = Field(0.1, gt=0, le=1000)
    """τ; the paper's is .01 to .03. None stands for an infinite one: all atoms that are kept weigh the same."""
    threshold: float = Field(0.0, ge=0, le=1)
    """δ; the paper's is .2, for atoms that were trained with the gate on."""
    norm: Literal["joint", "block"] = "joint"
    """Over the atoms of all experts, as published, or of each by itself."""
    signed: bool = False
    """Compare n itself, as published, or else |n|."""
    scale: float | None = Field(None, gt=0, le=1000)
    """Factor of all weights, 1 in the paper; by default such that equal weights of all atoms give the experts' mean."""
    train: bool = False
    """Train all experts' factors through the gate."""


def make_mora(making: Making, settings: MoRA) -> Made:
    """Put the experts in canonical form, and train them where that is wanted."""
    experts = making.experts.canonical()
    if not settings.train:
        return Made(experts)
    gates = {site: _gate(at, settings, in_use=False) for site, at in experts.sites.items()}

    def updates(parameters: Mapping[str, Tensor]) -> dict[str, GatedUpdate]:
        return updates_with(experts, parameters, gates)

    trained = train_parameters(making, settings, factor_parameters(experts), updates)
    return Made(with_parameters(experts, trained))


def mora_gates(experts: Experts, settings: MoRA, _tensors: Mapping[str, Tensor]) -> dict[str, Gate]:
    """Site → gate."""
    return {site: _gate(at, settings, in_use=True) for site, at in experts.sites.items()}


def _gate(at: SiteExperts, settings: MoRA, *, in_use: bool) -> Gate:
    n = len(at.ranks)

    def gate(_x: Tensor, z: Tensor) -> Tensor:
        if settings.norm == "joint":
            scale = z.shape[-1] / n if settings.scale is None else settings.scale
            return scale * self_activation(z, settings, in_use=in_use)
        parts = [
            (rank / n if settings.scale is None else settings.scale) * self_activation(part, settings, in_use=in_use)
            for part, rank in zip(torch.split(z, list(at.ranks), dim=-1), at.ranks, strict=True)
            if rank
        ]
        return torch.cat(parts, dim=-1)

    return gate


def self_activation(z: Tensor, settings: MoRA, *, in_use: bool) -> Tensor:
    """The weights (..., atoms) that coordinates (..., atoms) give themselves; they sum to 1 where none is cut."""
    key = z / z.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(z.dtype).tiny)
    if not settings.signed:
        key = key.abs()
    kept = key.topk(min(settings.k, key.shape[-1]), dim=-1)
    weights = torch.softmax(kept.values / (settings.temperature or math.inf), dim=-1)
    if in_use:
        weights = weights * (kept.values >= settings.threshold)
    return torch.zeros_like(key).scatter(-1, kept.indices, weights)


def mora_shapes(_experts: Experts, _settings: MoRA) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the tensors by name: there are none."""
    return {}
