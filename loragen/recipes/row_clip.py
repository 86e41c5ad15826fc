"""A limit on the norms of an update's rows while it is fitted to a few examples.

The guard of Locas (arXiv 2602.05085), which clips rows of the memories that it adds beside a layer, in its nearest form
for a LoRA: the fit begins at a generated adapter. Over an orthonormal A the rows of B have the norms of the rows of
B A, the update, so that clipping the one clips the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from loragen.recipes.expert import AdapterObjective, Start


@dataclass(frozen=True)
class RowClip:
    """Clips the rows of every B, after each step of a training."""

    limits: Mapping[str, float]
    """Site → largest norm of a row; sites that are not named have none."""

    @classmethod
    def of(cls, start: Start, multiple: float) -> Self:
        """Limits at a multiple of the mean row norm where a training begins; none at sites where it begins at zero."""
        means = {site: float(b.norm(dim=1).mean()) for site, b in start.lora_B.items()}
        return cls({site: multiple * mean for site, mean in means.items() if mean > 0})

    @torch.no_grad()
    def __call__(self, objective: AdapterObjective) -> None:
        """Clip the rows in place."""
        for site, b in zip(objective.sites, objective.lora_B, strict=True):
            if site in self.limits:
                b.copy_(clipped_rows(b, self.limits[site]))


def clipped_rows(rows: Tensor, limit: float) -> Tensor:
    """Rows (n, d) with those of a greater norm brought down to the limit, in their own directions."""
    short: Tensor = limit / rows.norm(dim=1, keepdim=True).clamp(min=limit)
    return rows * short
