"""Adapters as arrays: norms and products of their delta weights, and their folders. `Lora` without torch."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import safetensors.numpy

from loragen.adapters.folder_files import METADATA, WEIGHTS_NAME, adapter_files, key_of
from loragen.adapters.settings import CONFIG_NAME, LoraSettings, natural
from loragen.adapters.spec import AdapterSpec
from loragen.lean.arrays import Array, arrays_of, finite
from loragen.lean.errors import require


@dataclass(frozen=True, eq=False)
class Factors:
    """Settings and two factors per site, A (r, in) and B (out, r), float32, in natural order of sites."""

    settings: LoraSettings
    lora_A: Mapping[str, Array]
    lora_B: Mapping[str, Array]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that loragen wrote; others are left to `Lora.load`.

        Raises:
            NotLeanError: its tensors are not those of its config's sites.
            AdapterError: its config holds something that is not supported.
        """
        settings = LoraSettings.from_config(json.loads((folder / CONFIG_NAME).read_bytes()))
        arrays, _ = arrays_of((folder / WEIGHTS_NAME).read_bytes())
        require(isinstance(settings.target_modules, tuple), "the adapter's sites are a pattern")
        sites = sorted(settings.target_modules, key=natural)
        keys = {key_of(site, letter) for site in sites for letter in "AB"}
        require(arrays.keys() == keys, "the adapter has tensors of other names")
        lora_A, lora_B = ({site: arrays[key_of(site, letter)] for site in sites} for letter in "AB")
        for site in sites:
            a, b, r = lora_A[site], lora_B[site], settings.rank(site)
            require(a.dtype == b.dtype == np.float32, "a factor is no float32")
            require(a.ndim == b.ndim == 2 and len(a) == b.shape[1] == r and a.size > 0 < b.size, "factors do not fit")
            finite(a, b)
        return cls(settings, lora_A, lora_B)

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the adapted modules."""
        return tuple(self.lora_A)

    @cached_property
    def spec(self) -> AdapterSpec:
        """The adapted modules with their sizes."""
        return AdapterSpec.of(self.lora_A, self.lora_B)

    def norm(self) -> float:
        """Frobenius norm of the delta weights of all sites."""
        return math.sqrt(max(inner_product(self, self), 0.0))

    def files(self) -> dict[str, bytes]:
        """The files of its PEFT folder by name, as `Lora.files` has them."""
        named = {"A": self.lora_A, "B": self.lora_B}
        tensors = {
            key_of(site, letter): np.ascontiguousarray(factors[site])
            for site in self.sites
            for letter, factors in named.items()
        }
        return adapter_files(self.settings, safetensors.numpy.save(tensors, metadata=METADATA))


def inner_product(one: Factors, other: Factors) -> float:
    """Inner product of the delta weights of two adapters of the same sites, from r x r products alone.

    Raises:
        NotLeanError: their sites differ.
    """
    require(one.sites == other.sites, "adapters of other sites")
    total = 0.0
    for site in one.sites:
        a, b = (each.lora_A[site].astype(np.float64) for each in (one, other))
        c, d = (each.lora_B[site].astype(np.float64) * each.settings.scaling(site) for each in (one, other))
        total += float(((a @ b.T) * (c.T @ d)).sum())
    return total


def distance(one: Factors, other: Factors) -> float:
    """Frobenius norm of the difference of two adapters' delta weights."""
    squared = inner_product(one, one) + inner_product(other, other) - 2 * inner_product(one, other)
    return math.sqrt(max(squared, 0.0))


def cosine(one: Factors, other: Factors, *, centre: Factors) -> float:
    """Cosine of what two adapters add to a third; 0 if either adds nothing."""
    first, second, own = (inner_product(centre, each) for each in (one, other, centre))
    product = inner_product(one, other) + own - first - second
    squares = inner_product(one, one) + own - 2 * first, inner_product(other, other) + own - 2 * second
    return product / math.sqrt(squares[0] * squares[1]) if min(squares) > 1e-12 else 0.0


def weighted_sum(adapters: Sequence[Factors], weights: Sequence[float]) -> Factors:
    """The adapter whose delta weight is Σ wᵢ · delta weightᵢ, of adapters that share their A.

    Raises:
        NotLeanError: they do not.
    """
    first = adapters[0]
    for one in adapters[1:]:
        shares = one.sites == first.sites and all(np.array_equal(one.lora_A[s], first.lora_A[s]) for s in one.sites)
        require(shares, "experts do not share their A")
    require(len({one.settings.base for one in adapters}) == 1, "experts of several bases")
    scaled = [
        {site: w * one.settings.scaling(site) * b for site, b in one.lora_B.items()}
        for one, w in zip(adapters, weights, strict=True)
    ]
    lora_B = {site: np.sum([each[site] for each in scaled], axis=0).astype(np.float32) for site in first.sites}
    return from_factors(first.lora_A, lora_B, base=first.settings.base, task_type=first.settings.task_type)


def from_factors(
    lora_A: Mapping[str, Array], lora_B: Mapping[str, Array], *, base: str | None, task_type: str | None
) -> Factors:
    """The adapter whose update is B · A at every site."""
    sites = sorted(lora_A, key=natural)
    settings = LoraSettings.for_ranks({site: len(lora_A[site]) for site in sites}, base=base, task_type=task_type)
    finite(*lora_A.values(), *lora_B.values())
    return Factors(settings, {site: lora_A[site] for site in sites}, {site: lora_B[site] for site in sites})
