"""Normalisation of coordinates with an exact inverse: centre, scale by site, and an optional principal subspace."""

import math
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

        The scale of a site is the root mean square of its centred samples, times one factor for all sites that gives
        codes of the samples a mean square of 1: a squared error summed over k codes is then about k where nothing is
        known. ``components`` keeps at most that many principal directions, and none that carries nothing.
        """
        # In double precision, or the mean of equal values would miss them by a rounding error.
        centre = samples.mean(0, dtype=torch.float64).to(samples.dtype)
        centred = samples - centre
        scale = _site_scales(centred, sizes)
        codes, basis = centred / scale, None
        if components is not None:
            _, singular, right = torch.linalg.svd(codes, full_matrices=False)
            carrying = max(1, int((singular > 1e-4 * singular[0]).sum()))
            basis = right[: min(components, carrying)].contiguous()
            codes = codes @ basis.T
        return cls(centre, scale * (_root_mean_square(codes) or 1.0), basis)

    @classmethod
    def per_tensor(cls, samples: Tensor, sizes: Mapping[str, int]) -> "Codec":
        """A z-score per tensor: one mean and one deviation over all samples (n, d) for each part of ``sizes``."""
        parts = torch.split(samples, list(sizes.values()), dim=-1)
        means = [part.mean(dtype=torch.float64) for part in parts]
        floor = 1e-4 * _root_mean_square(samples) or 1.0
        deviations = [max(_root_mean_square(part - mean), floor) for part, mean in zip(parts, means, strict=True)]
        centre = torch.cat([part.new_full(part.shape[-1:], float(m)) for part, m in zip(parts, means, strict=True)])
        scale = torch.cat([part.new_full(part.shape[-1:], d) for part, d in zip(parts, deviations, strict=True)])
        return cls(centre, scale)

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
        return torch.where(total > 0, self.encode(samples).square().sum(-1) / total, 1.0)

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


def _site_scales(centred: Tensor, sizes: Mapping[str, int]) -> Tensor:
    """Root mean square of each site, repeated over its coordinates, (d,); a site that stands still gets a floor."""
    floor = 1e-4 * _root_mean_square(centred) or 1.0
    parts = torch.split(centred, list(sizes.values()), dim=1)
    return torch.cat([part.new_full((part.shape[1],), max(_root_mean_square(part), floor)) for part in parts])


def _root_mean_square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) / math.sqrt(values.numel())
