"""Experts in one file: the A that they share once and all their B's, of which one expert is read without the others."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.adapters.settings import LoraSettings
from loragen.errors import LoragenError, ZooError, cut

PACKED = "experts.safetensors"
"""File of a packed zoo: ``SITE.lora_A`` (r, in) and ``SITE.lora_B`` (experts, out, r), and as metadata ids, settings,
and the hashes of the files that the experts were packed from."""
_FACTS = "experts"
"""The one entry of the metadata: the format's writer keeps no order among several."""


def packed(ids: Sequence[str], adapters: Sequence[Lora]) -> bytes:
    """Adapters as the bytes of one file.

    Raises:
        ZooError: they do not share their A, or differ in settings.
    """
    first = adapters[0]
    for name, adapter in zip(ids, adapters, strict=True):
        if adapter.settings != first.settings or adapter.sites != first.sites:
            raise ZooError(
                f"The expert {name} has other settings than {ids[0]}; only experts of one recipe are packed."
            )
        if not all(torch.equal(adapter.lora_A[site], first.lora_A[site]) for site in first.sites):
            raise ZooError(
                f"The experts {ids[0]} and {name} do not share their A; only those of a zoo with one frame are packed."
            )
    facts = {
        "hashes": {name: file_hash(adapter) for name, adapter in zip(ids, adapters, strict=True)},
        "settings": first.settings.to_config(),
    }
    tensors = {f"{site}.lora_A": first.lora_A[site].clone() for site in first.sites}
    tensors |= {f"{site}.lora_B": torch.stack([one.lora_B[site] for one in adapters]) for site in first.sites}
    return save(tensors, metadata={_FACTS: json.dumps(facts)})


def file_hash(adapter: Lora) -> str:
    """SHA-256 of the file that holds an adapter's weights, were it written."""
    return hashlib.sha256(adapter.files()[WEIGHTS_NAME]).hexdigest()


@dataclass(frozen=True, eq=False)
class PackedExperts:
    """The experts of a packed file; the B of one is read when asked for."""

    path: Path
    hashes: dict[str, str]
    """Id → SHA-256 of the file that it was packed from, in the order of the rows."""
    settings: LoraSettings

    @classmethod
    def open(cls, path: Path) -> "PackedExperts":
        """Read ids and settings.

        Raises:
            ZooError: the file is missing or damaged.
        """
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})[_FACTS])
            hashes = {str(name): str(value) for name, value in facts["hashes"].items()}
            settings = LoraSettings.from_config(facts["settings"])
        except (
            *(OSError, SafetensorError, LoragenError),
            *(ValueError, KeyError, TypeError, AttributeError, RecursionError),
        ) as error:
            raise _damaged(path, error) from error
        return cls(path, hashes, settings)

    def hash(self, expert: str) -> str:
        """SHA-256 of the file that an expert was packed from.

        Raises:
            ZooError: it is not there.
        """
        if expert not in self.hashes:
            raise ZooError(f"{cut(self.path)} does not hold the expert {cut(expert)}, which has a card; restore it.")
        return self.hashes[expert]

    def adapter(self, expert: str) -> Lora:
        """Read one expert.

        Raises:
            ZooError: it is not there, or the file is damaged.
        """
        self.hash(expert)
        place = self._places[expert]
        try:
            with safe_open(self.path, framework="pt") as file:
                lora_b = {
                    name.removesuffix(".lora_B"): self._row(file.get_slice(name), place)
                    for name in file.keys()  # noqa: SIM118 - no mapping
                    if name.endswith(".lora_B")
                }
            return Lora(self.settings, self._lora_A, lora_b)
        except (OSError, SafetensorError, LoragenError, ValueError, KeyError, AttributeError) as error:
            raise _damaged(self.path, error) from error

    def _row(self, rows: "object", place: int) -> Tensor:
        shape = rows.get_shape()  # type: ignore[attr-defined]
        if len(shape) != 3 or shape[0] != len(self.hashes):
            raise ValueError(f"a tensor of shape {tuple(shape)} for {len(self.hashes)} experts")
        row: Tensor = rows[place]  # type: ignore[index]
        return row.contiguous()

    @cached_property
    def _places(self) -> dict[str, int]:
        """Id → row of the expert."""
        return {name: place for place, name in enumerate(self.hashes)}

    @cached_property
    def _lora_A(self) -> dict[str, Tensor]:
        with safe_open(self.path, framework="pt") as file:
            return {
                name.removesuffix(".lora_A"): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118 - no mapping
                if name.endswith(".lora_A")
            }


def _damaged(path: Path, error: Exception) -> ZooError:
    return ZooError(f"The packed experts {cut(path)} cannot be read ({cut(error)}); restore the file.")
