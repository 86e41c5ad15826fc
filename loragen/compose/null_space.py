"""Null-space projection (Brainstacks, arXiv 2604.01152): what one expert writes is kept out of what others write.

On some texts, the mean over the tokens of what the frozen experts add at a site is a row a text; the first right
singular vectors V (out, k) of these rows are protected. The published code projects in training alone, so that at
inference the expert still writes there; here B ← (I − V Vᵀ) B is folded into the factors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.squeeze import remade
from loragen.bases.base import Base
from loragen.bases.linear_sites import Updates
from loragen.bases.renaming import names_in, refuse_fused
from loragen.bases.tokenised import Input
from loragen.errors import AdapterError, shown


@final
@dataclass(frozen=True, eq=False)
class _Recorder:
    """Low-rank updates that keep the mean of what they add, a row a text."""

    factors: Sequence[tuple[Tensor, Tensor]]
    rows: list[Tensor] = field(default_factory=list)

    @property
    def out_features(self) -> int:
        return len(self.factors[0][1])

    @property
    def in_features(self) -> int:
        return self.factors[0][0].shape[1]

    def __call__(self, x: Tensor) -> Tensor:
        added = sum((x @ a.to(x).T @ b.to(x).T for a, b in self.factors), x.new_zeros(*x.shape[:-1], self.out_features))
        self.rows.append(added.detach().reshape(-1, self.out_features).mean(0).float().cpu())
        return added


@torch.inference_mode()
def protected_directions(base: Base, frozen: Sequence[Lora], texts: Sequence[Input], most: int) -> dict[str, Tensor]:
    """Site → V (out, k), orthonormal, of what frozen experts add on some texts, which are read one by one.

    Fewer than ``most`` where what is added has a lower rank.

    Raises:
        AdapterError: there is no expert, or the base lacks a site of one.
    """
    if not frozen or most < 1:
        raise AdapterError(
            f"{shown(most)} directions of {len(frozen)} frozen experts were asked for; at least one of each was wanted."
        )
    sites = list(dict.fromkeys(site for lora in frozen for site in lora.sites))
    recorders = {
        site: _Recorder([lora.scaled_factors(site) for lora in frozen if site in lora.lora_A]) for site in sites
    }
    names = names_in(base.model, sites)
    refuse_fused(names, type(base.model).__name__)
    updates: Updates = {new or site: recorders[site] for site, new in names.items()}
    with base.using(updates):
        for text in texts:
            base.states([text], pooling=base.pooling)
    return {site: leading(torch.stack(recorder.rows), most) for site, recorder in recorders.items()}


def leading(rows: Tensor, most: int) -> Tensor:
    """The first right singular vectors of rows (n, out), as columns (out, k), without those of rounding errors."""
    _, singular, right = torch.linalg.svd(rows.double(), full_matrices=False)
    number = int((singular > singular[0] * 1e-6).sum()) if singular.numel() and singular[0] > 0 else 0
    found: Tensor = right[: min(most, number)].T.contiguous()
    return found


def kept_out(lora: Lora, directions: Mapping[str, Tensor]) -> Lora:
    """The expert with B ← (I − V Vᵀ) B at every site that has protected directions; its scaling is in B."""
    lora_a, lora_b = {}, {}
    for site in lora.sites:
        lora_a[site], b = lora.scaled_factors(site)
        v = directions.get(site)
        lora_b[site] = b if v is None else (b.double() - v @ (v.T @ b.double())).float()
    return remade(lora, lora_a, lora_b)
