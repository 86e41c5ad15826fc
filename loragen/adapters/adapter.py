"""LoRA adapters as PEFT keeps them on disk, read and written without PEFT.

The one module that multiplies factors and writes adapters; `opened` reads their folders, `key_names` parses keys, and
`settings` reads the config. A folder is read exactly as PEFT reads it or refused by name: nothing that would change the
update is dropped in silence.

A *site* is the path of an adapted linear module in the base model, such as ``encoder.layer.0.attention.self.query``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Self

import safetensors.torch
import torch
from torch import Tensor

from loragen.adapters.folder_files import METADATA, adapter_files, key_of, write_files
from loragen.adapters.opened import opened
from loragen.adapters.origin import Origin
from loragen.adapters.settings import LoraSettings, natural
from loragen.adapters.spec import AdapterSpec as AdapterSpec
from loragen.adapters.spec import Site as Site
from loragen.errors import AdapterError, ConfigError, shown

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, eq=False)
class Lora:
    """Settings and two factors per site, ``lora_A`` (r, in) and ``lora_B`` (out, r), kept in natural order of sites.

    Raises:
        AdapterError: a factor is missing, does not fit the settings or its partner, or holds more than finite floats.
    """

    settings: LoraSettings
    lora_A: Mapping[str, Tensor]
    lora_B: Mapping[str, Tensor]
    origin: Origin = field(default_factory=Origin)
    """Remarks on the folder that it was read from."""

    def __post_init__(self) -> None:
        for name in ("lora_A", "lora_B"):
            factors = getattr(self, name)
            object.__setattr__(self, name, {site: factors[site] for site in sorted(factors, key=natural)})
        if not self.lora_A and not self.lora_B:
            raise AdapterError("the adapter has no sites; at least one pair of lora_A and lora_B is needed.")
        for site in sorted(self.lora_A.keys() ^ self.lora_B.keys(), key=natural):
            present, absent = ("lora_A", "lora_B") if site in self.lora_A else ("lora_B", "lora_A")
            raise AdapterError(f"{site} has {present} but no {absent}; export the adapter again with both.")
        for site in self.lora_A:
            self._check_site(site)

    def _check_site(self, site: str) -> None:
        a, b, rank = self.lora_A[site], self.lora_B[site], self.settings.rank(site)
        _check_factor(f"{site}.lora_A", a)
        _check_factor(f"{site}.lora_B", b)
        if not a.shape[0] == b.shape[1] == rank:
            raise AdapterError(
                f"{site} has lora_A of shape {tuple(a.shape)} and lora_B of shape {tuple(b.shape)}, where the settings "
                f"want ({rank}, in) and (out, {rank}); correct r or rank_pattern, or export the adapter again."
            )
        if not _is_bounded(a, b, self.settings.scaling(site)):
            raise AdapterError(
                f"The update of {site}, scaling · B · A, overflows float32 at a scaling of "
                f"{self.settings.scaling(site):g}; correct lora_alpha, or train the adapter again."
            )
        if not self.settings.targets(site):
            raise AdapterError(
                f"{site} has weights, but target_modules={shown(self.settings.target_modules)} leaves it out, so that "
                "PEFT would not load them; name it there or drop its weights."
            )

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the adapted modules in natural order."""
        return tuple(self.lora_A)

    @cached_property
    def spec(self) -> AdapterSpec:
        """The adapted modules with their sizes."""
        return AdapterSpec.of(self.lora_A, self.lora_B)

    def scaled_factors(self, site: str) -> tuple[Tensor, Tensor]:
        """A (r, in) and scaling · B (out, r) of a site, float32: their product is the delta weight."""
        return self.lora_A[site].float(), self.lora_B[site].float() * self.settings.scaling(site)

    def delta_weight(self, site: str) -> Tensor:
        """Return the update scaling · B · A: float32, (out_features, in_features)."""
        return self.lora_B[site].float() @ self.lora_A[site].float() * self.settings.scaling(site)

    def weight_update(self, site: str) -> Tensor:
        """Return the update as the base stores its weight: transposed where ``fan_in_fan_out`` is set.

        One flag speaks for all sites: for an adapter of both Linear and Conv1D modules, ask the base which is which.
        """
        delta = self.delta_weight(site)
        return delta.T if self.settings.fan_in_fan_out else delta

    def norm(self) -> float:
        """Compute the Frobenius norm over the delta weights of all sites, from r x r products alone."""
        return math.sqrt(sum(self._squared_norm(site) for site in self.sites))

    def _squared_norm(self, site: str) -> float:
        a, b = self.lora_A[site].detach().double(), self.lora_B[site].detach().double()
        # Rounding can push the trace of a vanishing product below zero.
        return self.settings.scaling(site) ** 2 * max(float(((a @ a.T) * (b.T @ b)).sum()), 0.0)

    @classmethod
    def from_factors(
        cls,
        lora_A: Mapping[str, Tensor],
        lora_B: Mapping[str, Tensor],
        *,
        base_model_name_or_path: str | None,
        task_type: str | None = None,
        fan_in_fan_out: bool = False,
        scaling: float = 1.0,
    ) -> Self:
        """Make an adapter whose update is ``scaling`` · B · A at every site, each with the rank of its factors.

        Sites are named in full, since short endings could cover further modules of the base. ``r`` is the largest rank,
        which is what servers reserve room for, and ``lora_alpha`` / ``r`` is ``scaling`` even to readers that know no
        patterns. The name of the base may end in ``@`` and a revision of the Hub.

        Raises:
            AdapterError: the factors do not make an adapter.
        """
        settings = LoraSettings.for_ranks(
            {site: lora_A[site].shape[0] for site in lora_A},
            base=base_model_name_or_path,
            task_type=task_type,
            fan_in_fan_out=fan_in_fan_out,
            scaling=scaling,
        )
        return cls(settings, lora_A, lora_B)

    @classmethod
    def load(cls, folder: Path, *, without_head: bool = False) -> Self:
        """Read an adapter folder: PEFT's, or what is near to it, with remarks in ``origin``.

        Args:
            folder: of the adapter, or with one adapter in it.
            without_head: read the adapter of a classifier as one of the model inside (FEATURE_EXTRACTION).

        Raises:
            AdapterError: the folder is missing, damaged, or holds something unsupported; the message names it.
        """
        try:
            parts = opened(folder, without_head=without_head)
            return cls(parts.settings, parts.lora_A, parts.lora_B, parts.origin)
        except (AdapterError, ConfigError) as error:  # the latter of a pattern that takes too long
            raise AdapterError(f"The adapter {folder} cannot be used: {error}") from error

    def save(
        self, folder: Path, *, extra_files: Mapping[str, str | bytes] = MappingProxyType({}), replace: bool = True
    ) -> None:
        """Write a PEFT adapter folder, whole or not at all, in place of one of ours that stands there if ``replace``.

        Equal adapters give equal bytes. ``extra_files`` maps the names of further files, such as a card, to contents.

        Raises:
            ConfigError: something stands there that may not be replaced.
        """
        write_files(folder, self.files(), extra_files, replace=replace)

    def files(self) -> dict[str, bytes]:
        """The files of its PEFT folder by name; equal adapters give equal bytes."""
        tensors = {}
        for site in self.sites:
            for letter, factor in (("A", self.lora_A[site]), ("B", self.lora_B[site])):
                # Cloned, since the file format holds no shared storage, while sites may share an A.
                copy = factor.detach().cpu().clone(memory_format=torch.contiguous_format)
                tensors[key_of(site, letter)] = copy
        return adapter_files(self.settings, safetensors.torch.save(tensors, metadata=METADATA))


def _is_bounded(a: Tensor, b: Tensor, scaling: float) -> bool:
    """True if no entry of the update, nor of the scaled B, can be beyond float32."""
    largest_a, largest_b = (float(factor.detach().float().abs().max()) for factor in (a, b))
    scaled = abs(scaling) * largest_b
    return max(scaled, scaled * largest_a * len(a)) <= torch.finfo(torch.float32).max


def _check_factor(name: str, factor: Tensor) -> None:
    if factor.dtype not in _DTYPES:
        wanted = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise AdapterError(f"{name} has dtype {factor.dtype}; one of {wanted} was wanted.")
    if factor.ndim != 2 or not factor.numel():
        raise AdapterError(
            f"{name} has shape {tuple(factor.shape)}; a matrix was wanted. Only linear modules are supported, "
            "and what was trained in shards must be gathered before it is saved."
        )
    if bad := int((~factor.float().isfinite()).sum()):
        raise AdapterError(
            f"{name} holds {bad} values that are not finite in float32; train or export the adapter again."
        )
