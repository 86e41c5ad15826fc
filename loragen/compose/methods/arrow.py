"""Arrow (Ostapenko et al. 2024, arXiv 2405.11157): each token goes to the experts whose updates it excites the most.

The prototype v of an expert at a site is the first right singular vector of its B A, the direction of inputs that it
answers to the most. For a token x the k experts of largest |x · v| get the softmax of these over a temperature. Nothing
is trained. PEFT has it as ``ArrowConfig``, for experts of one rank; its prototypes come from a few power iterations,
ours are exact.
"""

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from loragen.adapters.rank_gate import Gate
from loragen.adapters.spectrum import Spectrum
from loragen.compose.experts import Experts, SiteExperts
from loragen.compose.settings import ComposeSettings, Made, Making
from loragen.values import MOST_PARTS

PROTOTYPES = "prototypes"


class Arrow(ComposeSettings):
    """Settings of Arrow; the defaults are PEFT's."""

    top_k: int = Field(3, ge=1, le=MOST_PARTS)
    """Experts that a token goes to."""
    temperature: float = Field(1.0, gt=0, le=1000)
    """Of the softmax among them."""


def make_arrow(making: Making, _settings: Arrow) -> Made:
    """Find the prototypes, (n, in) at each site; zero for an expert that does not update it."""
    return Made(making.experts, tensors=prototypes(making.experts))


def prototypes(experts: Experts) -> dict[str, Tensor]:
    """``prototypes.SITE`` → (n, in)."""
    found = {}
    for site, at in experts.sites.items():
        rows = torch.zeros(len(experts), at.lora_A.shape[1])
        for number in at.present.nonzero().flatten().tolist():
            own = at.owners == number
            rows[number] = Spectrum.of_factors(at.lora_A[own], at.lora_B[:, own]).right[0].float()
        found[f"{PROTOTYPES}.{site}"] = rows
    return found


def arrow_gates(experts: Experts, settings: Arrow, tensors: Mapping[str, Tensor]) -> dict[str, Gate]:
    """Site → gate."""
    return {site: _gate(at, tensors[f"{PROTOTYPES}.{site}"], settings) for site, at in experts.sites.items()}


def _gate(at: SiteExperts, rows: Tensor, settings: Arrow) -> Gate:
    def gate(x: Tensor, _coordinates: Tensor) -> Tensor:
        likeness = (x @ rows.to(x).T).abs()
        likeness = likeness.masked_fill(~at.present.to(x.device), float("-inf"))
        return at.spread(top_softmax(likeness, settings.top_k, settings.temperature))

    return gate


def top_softmax(scores: Tensor, top_k: int, temperature: float) -> Tensor:
    """Softmax of scores (..., n) over a temperature among the ``top_k`` largest, zero elsewhere."""
    kept = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
    chosen = torch.softmax(kept.values / temperature, dim=-1)
    return torch.zeros_like(scores).scatter(-1, kept.indices, chosen)


def arrow_shapes(experts: Experts, _settings: Arrow) -> dict[str, tuple[int | None, ...]]:
    """Shapes of the tensors by name."""
    return {f"{PROTOTYPES}.{site}": (len(experts), at.lora_A.shape[1]) for site, at in experts.sites.items()}
