"""Factors of experts as parameters that are trained under their gate."""

from collections.abc import Mapping

from torch import Tensor

from loragen.adapters.rank_gate import GatedUpdate
from loragen.compose.experts import Experts
from loragen.compose.switching import Gates

_A, _B = "lora_A", "lora_B"


def factor_parameters(experts: Experts) -> dict[str, Tensor]:
    """``lora_A.SITE`` (Σ r, in) and ``lora_B.SITE`` (out, Σ r) of all experts."""
    found = {f"{_A}.{site}": at.lora_A for site, at in experts.sites.items()}
    return found | {f"{_B}.{site}": at.lora_B for site, at in experts.sites.items()}


def updates_with(experts: Experts, parameters: Mapping[str, Tensor], gates: Gates) -> dict[str, GatedUpdate]:
    """Site → gated update, of the experts' factors where the parameters hold no others."""
    return {
        site: GatedUpdate(
            parameters.get(f"{_A}.{site}", at.lora_A), parameters.get(f"{_B}.{site}", at.lora_B), gates[site]
        )
        for site, at in experts.sites.items()
    }


def with_parameters(experts: Experts, parameters: Mapping[str, Tensor]) -> Experts:
    """The experts with their trained factors; themselves where the parameters hold none."""
    if not any(name.startswith((f"{_A}.", f"{_B}.")) for name in parameters):
        return experts
    factors: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(len(experts))]
    for site, at in experts.sites.items():
        a, b = parameters[f"{_A}.{site}"], parameters[f"{_B}.{site}"]
        for number in at.present.nonzero().flatten().tolist():
            own = at.owners == number
            factors[number][site] = a[own].clone(), b[:, own].clone()
    return experts.with_factors(factors)


def gate_tensors(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters that are no factors of experts."""
    return {name: value for name, value in parameters.items() if not name.startswith((f"{_A}.", f"{_B}."))}
