"""Normalisation of coordinates with an exact inverse: centre, scale by site, and an optional principal subspace."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loragen.adapters.eight_bits import blocks, from_eight_bits, to_eight_bits
from loragen.errors import ZooError

_CHUNK = 2**15
"""Coordinates that are worked on at once, where there may be millions."""
_FEW = 100
"""Samples are few where there are so many times as many coordinates."""


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
    eight_bits: bool = False
    """Whether V is stored in eight bits, and is no more precise than that."""

    @classmethod
    def fit(cls, samples: Tensor, sizes: Mapping[str, int], *, components: int | None = None) -> "Codec":
        """Fit to samples (n, d) whose coordinates fall into consecutive sites of ``sizes``.

        The scale of a site is the root mean square of its centred samples, times one factor for all sites that gives
        codes of the samples a mean square of 1: a squared error summed over k codes is then about k where nothing is
        known. ``components`` keeps at most that many principal directions, and none that carries nothing.
        """
        lengths = list(sizes.values())
        sites = torch.split(samples, lengths, dim=1)
        # In double precision, or the mean of equal values would miss them by a rounding error.
        means = [site.mean(0, dtype=torch.float64).to(samples.dtype) for site in sites]
        deviations = [_root_mean_square(site - mean) for site, mean in zip(sites, means, strict=True)]
        # A site that stands still gets a floor.
        floor = 1e-4 * _pooled(deviations, lengths) or 1.0
        scales = [max(deviation, floor) for deviation in deviations]
        scale = torch.cat([mean.new_full(mean.shape, value) for mean, value in zip(means, scales, strict=True)])
        codec = cls(torch.cat(means), scale)
        if components is None:
            mean_square = _pooled([d / s for d, s in zip(deviations, scales, strict=True)], lengths)
            return replace(codec, scale=scale * (mean_square or 1.0))
        basis, mean_square = _principal(codec, samples, components)
        return replace(codec, scale=scale * (mean_square or 1.0), basis=basis)

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
        if self.basis is None:
            return (coordinates - self.centre) / self.scale
        codes = coordinates.new_zeros(*coordinates.shape[:-1], len(self.basis))
        for at in _chunks(len(self.centre)):
            codes += (coordinates[..., at] - self.centre[at]) / self.scale[at] @ self.basis[:, at].T
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (..., k) to coordinates (..., d)."""
        scaled = codes if self.basis is None else codes @ self.basis
        return scaled * self.scale + self.centre

    def encode_variance(self, variance: Tensor) -> Tensor:
        """Variances of independent coordinates (..., d) to the variances of their codes (..., k)."""
        if self.basis is None:
            return variance / self.scale**2
        codes = variance.new_zeros(*variance.shape[:-1], len(self.basis))
        for at in _chunks(len(self.centre)):
            codes += variance[..., at] / self.scale[at] ** 2 @ self.basis[:, at].T.square()
        return codes

    def energy_kept(self, samples: Tensor) -> Tensor:
        """Share of each sample's squared distance from the centre, in scaled units, that survives, (n,)."""
        total = ((samples - self.centre) / self.scale).square().sum(-1)
        return torch.where(total > 0, self.encode(samples).square().sum(-1) / total, 1.0)

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors from which `from_tensors` restores the codec."""
        named = {"codec.centre": self.centre, "codec.scale": self.scale}
        if self.basis is None:
            return named
        if not self.eight_bits:
            return named | {"codec.basis": self.basis}
        numbers, steps = to_eight_bits(self.basis)
        return named | {"codec.basis": numbers, "codec.basis_steps": steps.flatten()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Codec":
        """Restore a codec from `tensors`.

        Raises:
            ZooError: they do not go together.
        """
        centre, scale, basis = (tensors.get(f"codec.{name}") for name in ("centre", "scale", "basis"))
        if centre is None or scale is None or centre.ndim != 1 or not len(centre) or scale.shape != centre.shape:
            raise ZooError("The codec has no centre and scale of one length.")
        if not (scale > 0).all():
            raise ZooError("The codec has a scale that is not above 0.")
        if basis is not None and (basis.ndim != 2 or not len(basis) or basis.shape[1] != len(centre)):
            raise ZooError(f"The codec has a basis of shape {tuple(basis.shape)} over {len(centre)} coordinates.")
        steps = tensors.get("codec.basis_steps")
        if basis is None or steps is None:
            return cls(centre.float(), scale.float(), None if basis is None else basis.float())
        if basis.dtype != torch.int8 or steps.shape != (len(basis) * blocks(len(centre)),):
            raise ZooError(f"The codec's steps of shape {tuple(steps.shape)} do not fit its basis in eight bits.")
        matrix = from_eight_bits(basis, steps.reshape(len(basis), -1))
        return cls(centre.float(), scale.float(), matrix, eight_bits=True)

    def in_eight_bits(self) -> "Codec":
        """The same codec with a basis that is stored in eight bits, rounded to them."""
        if self.basis is None or self.eight_bits:
            return self
        return replace(self, basis=from_eight_bits(*to_eight_bits(self.basis)), eight_bits=True)


def _principal(codec: Codec, samples: Tensor, components: int) -> tuple[Tensor, float]:
    """At most ``components`` directions (k, d) of the codes of samples (n, d), and the codes' root mean square there.

    None that carries nothing is kept. Few samples of many coordinates are compared by their products alone: the
    eigenvectors U of the (n, n) products C Cᵀ are the left singular vectors of C, and Uᵀ C / σ the right ones. In
    double precision that is exact to 1e-8 for what is kept, and no copy of the samples is made.
    """
    n, d = samples.shape
    if d <= _FEW * n:
        codes = codec.encode(samples)
        _, singular, right = torch.linalg.svd(codes, full_matrices=False)
        basis = right[: _carrying(singular, components)].contiguous()
        return basis, _root_mean_square(codes @ basis.T)

    def codes_of(at: slice) -> Tensor:
        return (samples[:, at].double() - codec.centre[at]) / codec.scale[at]

    products = samples.new_zeros(n, n, dtype=torch.float64)
    for at in _chunks(d):
        codes = codes_of(at)
        products += codes @ codes.T
    squares, left = (values.flip(-1) for values in torch.linalg.eigh(products))
    singular = squares.clamp_min(0.0).sqrt()
    kept = _carrying(singular, components)
    basis = torch.eye(kept, d, dtype=samples.dtype)
    if singular[0] > 0:
        combined = (left[:, :kept] / singular[:kept]).T
        for at in _chunks(d):
            basis[:, at] = combined @ codes_of(at)
    return basis, math.sqrt(float(squares[:kept].sum().clamp_min(0.0)) / (n * kept))


def _carrying(singular: Tensor, components: int) -> int:
    """Number of directions that are kept, from their singular values, largest first."""
    return min(components, max(1, int((singular > 1e-4 * singular[0]).sum())))


def _chunks(size: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, size, _CHUNK))


def _pooled(deviations: Sequence[float], sizes: Sequence[int]) -> float:
    """Root mean square of all coordinates, from those of the sites and the sites' sizes."""
    squares = (size * deviation**2 for deviation, size in zip(deviations, sizes, strict=True))
    return math.sqrt(sum(squares) / sum(sizes))


def _root_mean_square(values: Tensor) -> float:
    return float(torch.linalg.vector_norm(values, dtype=torch.float64)) / math.sqrt(values.numel())
