"""Writes generated adapters: PEFT folder, card and model card in one step, then reads them back and checks them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.config import dump_yaml
from loragen.errors import AdapterError
from loragen.exporters.card import GeneratedCard, model_card


@dataclass(frozen=True)
class Written:
    """An adapter on disk that was read back and found to change its base."""

    folder: Path
    norm: float
    """Frobenius norm over all delta weights."""
    sites: int
    r: int
    """Largest rank of a site."""
    task_type: str | None
    """PEFT's name for what it is for."""


def write_adapter(
    adapter: Lora,
    card: GeneratedCard,
    folder: Path,
    *,
    extra_files: Mapping[str, str | bytes] = MappingProxyType({}),
    replace: bool = True,
) -> Written:
    """Write a generated adapter with its card and model card; see `write_checked`.

    Where the config of the base is on this machine, every site must be a linear module of it, of those sizes.

    Raises:
        AdapterError: the adapter leaves its base unchanged, does not fit it, or came back other than it was written.
    """
    Architecture.check_at_hand(card.base, adapter)
    files = {"card.yaml": dump_yaml(card.model_dump(mode="json")), "README.md": model_card(card, adapter)}
    return write_checked(adapter, folder, extra_files={**extra_files, **files}, replace=replace)


def write_checked(
    adapter: Lora,
    folder: Path,
    *,
    extra_files: Mapping[str, str | bytes] = MappingProxyType({}),
    replace: bool = True,
) -> Written:
    """Save an adapter, read it back, and check that it is what was meant and not a no-op.

    Raises:
        AdapterError: the adapter leaves its base unchanged, or came back other than it was written.
    """
    if adapter.norm() == 0:
        raise AdapterError(
            "The generated adapter leaves the base unchanged (all delta weights are zero); nothing was written."
        )
    adapter.save(folder, extra_files=extra_files, replace=replace)
    read = Lora.load(folder)
    if read.spec != adapter.spec or abs(read.norm() - adapter.norm()) > 1e-3 * adapter.norm():
        raise AdapterError(f"{folder} does not read back as it was written; check the disk, and generate again.")
    return Written(
        folder, read.norm(), len(read.sites), max(site.r for site in read.spec.sites), adapter.settings.task_type
    )
