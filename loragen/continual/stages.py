"""Linear layers that grow by low-rank stages (ScaleZero, Pu et al. 2025, arXiv 2509.07945), and the file of them.

    W = a₀ W₀ + Σⱼ aⱼ Bⱼ Aⱼ,        a = 1 + 0.2 tanh(l)

Earlier stages stay as they are but for their strengths a, which lie between 0.8 and 1.2; the newest counts 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from loragen.errors import GeneratorError

REACH = 0.2
"""How far a strength can be from 1."""


def strength(logit: Tensor) -> Tensor:
    """A of l."""
    return 1 + REACH * torch.tanh(logit)


@final
class StagedLinear(nn.Module):
    """A linear layer with stages, of which the first ``opened`` are there."""

    opened: Tensor
    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, weight: Tensor, bias: Tensor | None, factors: "list[tuple[Tensor, Tensor]]", opened: int
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self.lora_A = nn.ParameterList([nn.Parameter(a.clone()) for a, _ in factors])
        self.lora_B = nn.ParameterList([nn.Parameter(b.clone()) for _, b in factors])
        self.logits = nn.Parameter(torch.zeros(1 + len(factors)))
        self.register_buffer("opened", torch.tensor(opened))

    def effective(self) -> Tensor:
        """W."""
        opened = int(self.opened)
        found = self.weight if opened == 0 else strength(self.logits[0]) * self.weight
        for stage in range(opened):
            is_newest = stage == opened - 1
            a, b = self.lora_A[stage], self.lora_B[stage]
            found = found + (b @ a if is_newest else strength(self.logits[1 + stage]) * (b.detach() @ a.detach()))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """As a linear layer does."""
        return nn.functional.linear(x, self.effective(), self.bias)


@final
@dataclass(frozen=True, eq=False)
class StagesFile:
    """Stages of all layers, and the strengths at the end of each update."""

    weights: Mapping[str, Tensor]
    """Layer → W₀."""
    factors: Mapping[str, tuple[tuple[Tensor, Tensor], ...]]
    """Layer → A and B of each stage."""
    states: tuple[Mapping[str, Tensor], ...]
    """For each update, layer → l of what there was at its end, W₀ and all stages but the newest counting among them."""

    def weights_at(self, update: int) -> dict[str, Tensor]:
        """Layer → W as it was at the end of an update, counted from 0.

        Raises:
            GeneratorError: there were not so many.
        """
        if not 0 <= update < len(self.states):
            raise GeneratorError(f"There were {len(self.states)} updates by stages; {update} is none of them.")
        found = {}
        for name, logits in self.states[update].items():
            layer = StagedLinear(self.weights[name], None, list(self.factors[name]), len(logits) - 1)
            with torch.no_grad():
                layer.logits[: len(logits)] = logits
                found[name] = layer.effective().clone()
        return found

    def to_bytes(self) -> bytes:
        """The file."""
        tensors = {f"{name}.weight": w for name, w in self.weights.items()}
        for name, factors in self.factors.items():
            for stage, (a, b) in enumerate(factors):
                tensors |= {f"{name}.{stage}.lora_A": a, f"{name}.{stage}.lora_B": b}
        for update, state in enumerate(self.states):
            tensors |= {f"{name}.state.{update}": logits for name, logits in state.items()}
        return save({name: value.detach().contiguous().clone() for name, value in tensors.items()})

    @classmethod
    def from_bytes(cls, content: bytes) -> "StagesFile":
        """Read the file.

        Raises:
            GeneratorError: it is damaged.
        """
        try:
            tensors = load(content)
        except SafetensorError as error:
            raise GeneratorError("The file of the generator's stages is damaged; restore it, or train anew.") from error
        weights = {n.removesuffix(".weight"): w for n, w in tensors.items() if n.endswith(".weight")}
        factors: dict[str, tuple[tuple[Tensor, Tensor], ...]] = {}
        states: list[dict[str, Tensor]] = []
        for name in weights:
            stages: list[tuple[Tensor, Tensor]] = []
            while f"{name}.{len(stages)}.lora_A" in tensors and f"{name}.{len(stages)}.lora_B" in tensors:
                stages.append((tensors[f"{name}.{len(stages)}.lora_A"], tensors[f"{name}.{len(stages)}.lora_B"]))
            factors[name] = tuple(stages)
        while all(f"{name}.state.{len(states)}" in tensors for name in weights) and weights:
            states.append({name: tensors[f"{name}.state.{len(states)}"] for name in weights})
        return cls(weights, factors, tuple(states))
