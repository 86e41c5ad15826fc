"""Low-rank changes of layers in training, one group a layer, and their running mean."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class LayerChanges(nn.Module):
    """Factors A (r, in), orthonormal rows at first, and B (out, r), zero at first, of some layers."""

    def __init__(self, sizes: Mapping[str, tuple[int, int]], rank: int, *, rng: torch.Generator) -> None:
        super().__init__()
        self.names = tuple(sizes)
        starts = [(min(rank, *size), size) for size in sizes.values()]
        rows = [torch.linalg.qr(torch.randn(width, r, generator=rng))[0].T for r, (_, width) in starts]
        self.lora_A = nn.ParameterList([each.contiguous() for each in rows])
        self.lora_B = nn.ParameterList([torch.zeros(out, r) for r, (out, _) in starts])

    @property
    def groups(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """A and B of each layer."""
        return list(zip(self.lora_A, self.lora_B, strict=True))

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Layer → A and B, differentiable."""
        return dict(zip(self.names, self.groups, strict=True))


class RunningMean:
    """A running mean of factors; where the last ones change nothing, nor does the mean."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.mean: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Take a step into the mean: mean ← share · mean + (1 - share) · factors."""
        for layer, pair in factors.items():
            now = [part.detach().cpu().clone() for part in pair]
            before = self.mean.get(layer, (now[0], now[1]))
            a, b = (torch.lerp(old, new, 1 - self.share) for old, new in zip(before, now, strict=True))
            self.mean[layer] = (a, b)

    def kept(self, last: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
        """The mean where the last factors change something; other layers are left out."""
        return {layer: self.mean[layer] for layer, pair in last.items() if all(part.any() for part in pair)}
