"""A shared gauge: for every site one A of R rows, in which an adapter is a plain vector of coordinates.

(B R)(R⁻¹ A) is the same update for every invertible R, so raw factors of independent adapters cannot be compared or
averaged. Over one shared A the delta weight is linear in B: B itself is the coordinate, and means are means of updates.
Over one shared A and one shared basis of what is written, B, the update is B C A, and C is the coordinate.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.tensor_file import read_tensors
from loragen.errors import AdapterError, ZooError, cut, shown

MOST_FEATURES = 10_000_000
"""Features that a site of a frame may write."""
_WRITTEN = ".lora_B"
"""Ending of a site's basis of what is written in a frame's file."""


@dataclass(frozen=True, eq=False)
class Frame:
    """Site → A, float32 (R, in) with independent rows, and the number of output features there."""

    lora_A: Mapping[str, Tensor]
    out_features: Mapping[str, int]
    lora_B: Mapping[str, Tensor] | None = None
    """Site → basis of what is written, float32 (out, Q) with independent columns: a site then has Q · R coordinates.
    None leaves what is written free."""

    @classmethod
    def fit(cls, adapters: Sequence[Lora], *, r: int | None = None) -> "Frame":
        """Find the frame that holds the adapters best.

        Adapters that share their A keep it, and nothing is lost. Others get, site by site, the ``r`` top right singular
        vectors of their stacked delta weights (``r`` defaults to the largest rank among them); a site that an adapter
        lacks counts as zero.

        Raises:
            ZooError: there is no adapter.
            AdapterError: adapters disagree on the shape of a site.
        """
        if not adapters:
            raise ZooError("There is no adapter to fit a frame to; at least one was wanted.")
        sites = list(dict.fromkeys(site for adapter in adapters for site in adapter.sites))
        bases, outs = {}, {}
        for site in sites:
            holders = [adapter for adapter in adapters if site in adapter.lora_A]
            shapes = {(len(a.lora_B[site]), a.lora_A[site].shape[1]) for a in holders}
            if len(shapes) > 1:
                raise AdapterError(
                    f"Adapters of one frame must agree on {site!r}, but its (out, in) is {sorted(shapes)}."
                )
            bases[site] = _common_basis(site, holders, r)
            outs[site] = len(holders[0].lora_B[site])
        return cls(bases, outs)

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Site → number of coordinates, out · R or, over a basis of what is written, Q · R."""
        return {site: self._rows(site) * len(a) for site, a in self.lora_A.items()}

    def _rows(self, site: str) -> int:
        return self.out_features[site] if self.lora_B is None else self.lora_B[site].shape[1]

    @property
    def size(self) -> int:
        """Coordinates of a whole adapter."""
        return sum(self.sizes.values())

    @cached_property
    def _inverses(self) -> dict[str, Tensor]:
        return {site: torch.linalg.pinv(a.double()).float() for site, a in self.lora_A.items()}

    @cached_property
    def _written(self) -> dict[str, Tensor]:
        """Site → pseudoinverse of the basis of what is written, (Q, out); empty without one."""
        bases = {} if self.lora_B is None else self.lora_B
        return {site: torch.linalg.pinv(b.double()).float() for site, b in bases.items()}

    def coordinates(self, adapter: Lora) -> Tensor:
        """Coordinates of the part of an adapter that the frame holds, float32 (size,); missing sites are zero.

        Raises:
            AdapterError: the adapter has a site, or a shape, that the frame does not know.
        """
        factors = self._known_factors(adapter)
        return self.flatten({site: self._site_coordinates(site, factors.get(site)) for site in self.lora_A})

    def _known_factors(self, adapter: Lora) -> dict[str, tuple[Tensor, Tensor]]:
        """Site → A (r, in) and scaling · B (out, r) of an adapter, none of them strange to the frame."""
        unknown = [site for site in adapter.sites if site not in self.lora_A]
        if unknown:
            raise AdapterError(
                f"The adapter updates {unknown[0]!r}, which is not among the frame's {len(self.sizes)} sites."
            )
        factors = {}
        for site in adapter.sites:
            a, b = adapter.scaled_factors(site)
            out, width = self.out_features[site], self.lora_A[site].shape[1]
            if (len(b), a.shape[1]) != (out, width):
                raise AdapterError(
                    f"The adapter maps {a.shape[1]} to {len(b)} features at {site!r}, the frame {width} to {out}."
                )
            factors[site] = a, b
        return factors

    def _site_coordinates(self, site: str, factors: tuple[Tensor, Tensor] | None) -> Tensor:
        basis = self.lora_A[site]
        if factors is None:
            return torch.zeros(self._rows(site), len(basis))
        a, b = factors
        b = b if self.lora_B is None else self._written[site] @ b
        return b @ (a @ self._inverses[site]) if not torch.equal(a, basis) else b

    def flatten(self, blocks: Mapping[str, Tensor]) -> Tensor:
        """Per-site blocks (..., out or Q, R) as coordinates (..., size), in the frame's order of sites."""
        return torch.cat([blocks[site].flatten(-2) for site in self.lora_A], dim=-1)

    def unflatten(self, coordinates: Tensor) -> dict[str, Tensor]:
        """Invert `flatten`."""
        parts = torch.split(coordinates, list(self.sizes.values()), dim=-1)
        return {
            site: part.reshape(*part.shape[:-1], self._rows(site), len(a))
            for (site, a), part in zip(self.lora_A.items(), parts, strict=True)
        }

    def factors(self, coordinates: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Site → A (R, in) and scaling · B (out, R) of the adapter at some coordinates (size,); differentiable."""
        blocks = self.unflatten(coordinates)
        if self.lora_B is not None:
            blocks = {site: self.lora_B[site].to(block) @ block for site, block in blocks.items()}
        return {site: (self.lora_A[site], block) for site, block in blocks.items()}

    def adapter(
        self, coordinates: Tensor, *, base: str | None, task_type: str | None = None, fan_in_fan_out: bool = False
    ) -> Lora:
        """The adapter at some coordinates (size,), float32."""
        factors = self.factors(coordinates.float())
        return Lora.from_factors(
            dict(self.lora_A),
            {site: b.contiguous() for site, (_, b) in factors.items()},
            base_model_name_or_path=base,
            task_type=task_type,
            fan_in_fan_out=fan_in_fan_out,
        )

    def rounded(self) -> "Frame":
        """The frame rounded to bfloat16, as it is stored: coordinates belong to the rounded frame."""
        written = None if self.lora_B is None else _rounded(self.lora_B)
        return Frame(_rounded(self.lora_A), self.out_features, written)

    def energy_kept(self, adapter: Lora) -> float:
        """Share of an adapter's squared Frobenius norm that the frame holds, from 0 to 1."""
        total, held = 0.0, 0.0
        # From r x r products alone: the coordinates are B M, and the update held is B M times the frame's A.
        for site, (a, b) in self._known_factors(adapter).items():
            basis = self.lora_A[site].double()
            a, b = a.double(), b.double()
            mixed, square = a @ self._inverses[site].double(), b.T @ b
            total += float(((a @ a.T) * square).sum())
            if self.lora_B is not None:
                b = self.lora_B[site].double() @ (self._written[site].double() @ b)
                square = b.T @ b
            held += float(((basis @ basis.T) * (mixed.T @ square @ mixed)).sum())
        return min(1.0, max(0.0, held / total)) if total > 0 else 1.0

    def to_bytes(self) -> bytes:
        """The frame as a safetensors file: A by site, and the sites' order and output features as metadata.

        A basis of what is written stands there as ``SITE.lora_B``.
        """
        # One entry alone: the format's writer keeps no order among several.
        outs = json.dumps(dict(self.out_features))
        # Cloned, since the format holds no shared storage, while sites may share an A.
        factors = {**self.lora_A, **{site + _WRITTEN: b for site, b in (self.lora_B or {}).items()}}
        tensors = {name: factor.clone(memory_format=torch.contiguous_format) for name, factor in factors.items()}
        return save(tensors, metadata={"out_features": outs})

    @classmethod
    def load(cls, path: Path) -> "Frame":
        """Read a frame.

        Raises:
            ZooError: the file is missing or damaged.
        """
        tensors, metadata = read_tensors(path)
        try:
            outs = json.loads(metadata["out_features"])
            a, sizes = {site: _basis(tensors[site]) for site in outs}, {site: _size(outs[site]) for site in outs}
            if not any(site + _WRITTEN in tensors for site in outs):
                return cls(a, sizes)
            return cls(a, sizes, {site: _basis(tensors[site + _WRITTEN], out) for site, out in sizes.items()})
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ZooError(
                f"The frame {cut(path)} cannot be read ({cut(error)}); train its generator again."
            ) from error


def _basis(factor: Tensor, out_features: int | None = None) -> Tensor:
    wrong = factor.ndim != 2 or not factor.numel() or not factor.is_floating_point()
    if wrong or out_features not in (None, len(factor)):
        raise ValueError(
            f"an {'A' if out_features is None else 'B'} of shape {tuple(factor.shape)} and type {factor.dtype}"
        )
    return factor


def _rounded(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {site: factor.bfloat16().float() for site, factor in factors.items()}


def _size(features: object) -> int:
    if not isinstance(features, int) or not 1 <= features <= MOST_FEATURES:
        raise ValueError(f"{shown(features)} features")
    return features


def _common_basis(site: str, adapters: Sequence[Lora], r: int | None) -> Tensor:
    first = adapters[0].lora_A[site].float()
    ranks = [len(adapter.lora_A[site]) for adapter in adapters]
    if r in (None, len(first)) and all(torch.equal(adapter.lora_A[site].float(), first) for adapter in adapters):
        return first
    width = first.shape[1]
    wanted = min(r or max(ranks), width)
    if sum(ranks) < width:
        # With B = Q T the stacked delta weights have the right singular vectors of the stacked T A, Σ rank rows in all.
        rows = [_triangle(b.double()) @ a.double() for a, b in (adapter.scaled_factors(site) for adapter in adapters)]
        return _leading_directions(torch.cat(rows), wanted).float().contiguous()
    # They are the eigenvectors of Σ (B A)ᵀ(B A), too.
    gram = torch.zeros(width, width, dtype=torch.float64)
    for adapter in adapters:
        a, b = (factor.double() for factor in adapter.scaled_factors(site))
        gram += a.T @ (b.T @ b) @ a
    vectors: Tensor = torch.linalg.eigh(gram).eigenvectors  # ascending eigenvalues
    return vectors[:, -wanted:].flip(1).T.float().contiguous()


def _triangle(b: Tensor) -> Tensor:
    triangle: Tensor = torch.linalg.qr(b).R
    return triangle


def _leading_directions(rows: Tensor, wanted: int) -> Tensor:
    """The ``wanted`` top right singular vectors (wanted, in) of fewer rows (n, in) than columns, in double precision.

    Where only some are wanted, the eigenvectors of the (n, n) products give them many times faster, as exactly, unless
    the weakest is so weak that squaring spoils it.
    """
    if wanted < len(rows):
        squares, left = torch.linalg.eigh(rows @ rows.T)  # ascending
        if squares[-wanted] > 1e-8 * squares[-1]:
            leading: Tensor = (left[:, -wanted:] / squares[-wanted:].sqrt()).flip(1).T @ rows
            return leading
    vectors: Tensor = torch.linalg.svd(rows, full_matrices=wanted > len(rows)).Vh
    return vectors[:wanted]
