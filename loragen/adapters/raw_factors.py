"""Adapters as vectors of their own factors, A and B of every site, which ICM-LoRA's paper generates.

Other than in a `Frame`, many vectors stand for one update, and the mean of vectors is not the mean of updates.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from loragen.adapters.adapter import AdapterSpec, Lora
from loragen.errors import AdapterError


@dataclass(frozen=True)
class RawFactors:
    """The layout of the vector: A (r, in), then scaling · B (out, r), site by site."""

    spec: AdapterSpec

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Tensor → number of its values."""
        parts: dict[str, int] = {}
        for site in self.spec.sites:
            parts[f"{site.name}.lora_A"] = site.r * site.in_features
            parts[f"{site.name}.lora_B"] = site.out_features * site.r
        return parts

    @property
    def size(self) -> int:
        """Values of a whole adapter."""
        return sum(self.sizes.values())

    def coordinates(self, adapter: Lora) -> Tensor:
        """All factors of an adapter, float32 (size,).

        Raises:
            AdapterError: the adapter has other sites, or another shape or rank somewhere.
        """
        if difference := adapter.spec.difference(self.spec):
            raise AdapterError(
                f"Raw factors need one layout, but {difference} (there: the generator's); use the codec 'frame', which "
                "takes adapters of different ranks."
            )
        return self.flatten({site: adapter.scaled_factors(site) for site in adapter.sites})

    def flatten(self, factors: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
        """Site → (A, scaling · B) as one vector."""
        return torch.cat([factor.float().flatten() for site in self.spec.sites for factor in factors[site.name]])

    def adapter(
        self, coordinates: Tensor, *, base: str | None, task_type: str | None = None, fan_in_fan_out: bool = False
    ) -> Lora:
        """The adapter with these factors (size,), float32."""
        parts = iter(torch.split(coordinates.float(), list(self.sizes.values())))
        lora_A, lora_B = {}, {}
        for site in self.spec.sites:
            lora_A[site.name] = next(parts).reshape(site.r, site.in_features).clone()
            lora_B[site.name] = next(parts).reshape(site.out_features, site.r).clone()
        return Lora.from_factors(
            lora_A, lora_B, base_model_name_or_path=base, task_type=task_type, fan_in_fan_out=fan_in_fan_out
        )
