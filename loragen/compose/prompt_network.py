"""The network of Brainstacks' router: from the tokens of a text to a number between 0 and 1 for each expert.

Tokens are projected; one query that all experts share and one of each expert attend to them; an MLP reads what both
found, and a sigmoid gives the number. Trained with binary cross-entropy, and a margin between the experts that help and
those that do not.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.compose.training import small
from loragen.training.objective import Objective

PARTS = ("project", "queries", "hidden", "hidden_bias", "out", "out_bias")


def network_start(hidden: int, experts: int, width: int, *, rng: torch.Generator) -> dict[str, Tensor]:
    """Tensors of a network that was not trained, by name."""
    return {
        "project": torch.randn(width, hidden, generator=rng) / hidden**0.5,
        "queries": small((1 + experts, width), rng=rng, scale=width**-0.5),
        "hidden": torch.randn(width, 2 * width, generator=rng) / (2 * width) ** 0.5,
        "hidden_bias": torch.zeros(width),
        "out": small((experts, width), rng=rng, scale=width**-0.5),
        "out_bias": torch.zeros(experts),
    }


def expert_logits(parts: Mapping[str, Tensor], states: Tensor, mask: Tensor) -> Tensor:
    """Logits (n, experts) from the bare base's hidden states (n, longest, hidden) and the mask of their tokens."""
    tokens = torch.tanh(states @ parts["project"].to(states).T)
    scores = tokens @ parts["queries"].to(states).T  # (n, longest, 1 + experts)
    attention = scores.masked_fill(~mask[..., None], float("-inf")).softmax(1)
    found = attention.transpose(1, 2) @ tokens  # (n, 1 + experts, width)
    own = found[:, 1:]
    both = torch.cat([found[:, :1].expand_as(own), own], dim=-1)
    read = F.gelu(both @ parts["hidden"].to(states).T + parts["hidden_bias"].to(states))
    return (read * parts["out"].to(states)).sum(-1) + parts["out_bias"].to(states)


@final
@dataclass(frozen=True, eq=False)
class PromptBatch:
    """Hidden states of some texts (n, longest, hidden), the mask of their tokens, and targets (n, experts)."""

    states: Tensor
    mask: Tensor
    targets: Tensor

    def to(self, device: torch.device) -> "PromptBatch":
        """The same batch on a device."""
        return PromptBatch(self.states.to(device), self.mask.to(device), self.targets.to(device))


@final
class PromptObjective(Objective):
    """Binary cross-entropy to the targets, plus a margin between the likeliest and the least likely experts."""

    def __init__(self, parts: Mapping[str, Tensor], *, margin: float, margin_weight: float) -> None:
        super().__init__()
        self.values = nn.ParameterList([parts[name].clone() for name in PARTS])
        self.margin, self.margin_weight = margin, margin_weight

    def named(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return dict(zip(PARTS, self.values, strict=True))

    def loss(self, batch: PromptBatch) -> dict[str, Tensor]:
        """Both losses, and their sum."""
        logits = expert_logits(self.named(), batch.states, batch.mask)
        entropy = F.binary_cross_entropy_with_logits(logits, batch.targets)
        apart = margin_loss(logits.sigmoid(), batch.targets >= 0.5, self.margin)
        return {"loss": entropy + self.margin_weight * apart, "entropy": entropy, "margin": apart}


def margin_loss(p: Tensor, helps: Tensor, margin: float) -> Tensor:
    """Mean of max(0, margin − (mean p of experts that help − mean p of others)) over texts that have some of both."""
    counts, others = helps.sum(1), (~helps).sum(1)
    mean = (p * helps).sum(1) / counts.clamp_min(1)
    rest = (p * ~helps).sum(1) / others.clamp_min(1)
    both = (counts > 0) & (others > 0)
    return (F.relu(margin - (mean - rest)) * both).sum() / both.sum().clamp_min(1)
