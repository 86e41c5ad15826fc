"""Writes generated adapters: PEFT folder, card and model card in one step, then reads them back and checks them."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.config import dump_yaml
from loragen.exporters.card import GeneratedCard, model_card
from loragen.exporters.written import Written as Written
from loragen.exporters.written import refuse_no_op, written


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
    refuse_no_op(adapter)
    adapter.save(folder, extra_files=extra_files, replace=replace)
    read = Lora.load(folder)
    return written(folder, read, adapter)
