"""Normalisation of coordinates with an exact inverse: centre, scale by site, and an optional principal subspace."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Codec:
    """coordinates (..., d) ↔ codes (..., k): codes = V (coordinates - centre) / scale.

    Without ``basis`` k = d and decoding inverts encoding; with one, decoding inverts it on the subspace that V spans.
    """

    centre: Tensor
    """(d,)"""
    scale: Tensor
    """(d,), positive; one value a site, so that relations within a site are kept."""
    basis: Tensor | None = None
    """V, (k, d) with orthonormal rows."""

    @classmethod
    def fit(cls, samples: Tensor, sizes: Mapping[str, int], *, components: int | None = None) -> "Codec":
        """Fit to samples (n, d) whose coordinates fall into consecutive sites of ``sizes``.

        The scale of a site is the root mean square of its centred samples. ``components`` keeps at most that many
        principal directions, and none that carries nothing.
        """
        centre = samples.mean(0)
        centred = samples - centre
        parts = torch.split(centred, list(sizes.values()), dim=1)
        rms = [part.square().mean().sqrt().clamp_min(1e-12).expand(part.shape[1]) for part in parts]
        scale = torch.cat(rms).contiguous()
        if components is None:
            return cls(centre, scale)
        _, singular, right = torch.linalg.svd(centred / scale, full_matrices=False)
        carrying = int((singular > 1e-4 * singular[0]).sum())
        return cls(centre, scale, right[: min(components, carrying)].contiguous())

    @property
    def size(self) -> int:
        """k, the numbers in a code."""
        return len(self.centre) if self.basis is None else len(self.basis)

    def encode(self, coordinates: Tensor) -> Tensor:
        """Coordinates (..., d) to codes (..., k)."""
        codes = (coordinates - self.centre) / self.scale
        return codes if self.basis is None else codes @ self.basis.T

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (..., k) to coordinates (..., d)."""
        scaled = codes if self.basis is None else codes @ self.basis
        return scaled * self.scale + self.centre

    def encode_variance(self, variance: Tensor) -> Tensor:
        """Variances of independent coordinates (..., d) to the variances of their codes (..., k)."""
        scaled = variance / self.scale**2
        return scaled if self.basis is None else scaled @ self.basis.T.square()

    def energy_kept(self, samples: Tensor) -> Tensor:
        """Share of each sample's squared distance from the centre, in scaled units, that survives, (n,)."""
        total = ((samples - self.centre) / self.scale).square().sum(-1)
        return self.encode(samples).square().sum(-1) / total.clamp_min(1e-12)

    def tensors(self) -> dict[str, Tensor]:
        """What `from_tensors` needs to restore the codec."""
        named = {"codec.centre": self.centre, "codec.scale": self.scale}
        return named if self.basis is None else named | {"codec.basis": self.basis}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Codec":
        """Restore a codec from `tensors`."""
        basis = tensors.get("codec.basis")
        return cls(
            tensors["codec.centre"].float(), tensors["codec.scale"].float(), None if basis is None else basis.float()
        )
