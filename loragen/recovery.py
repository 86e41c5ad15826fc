"""Adapters of pruned bases made adapters of the full ones (LoRAM, arXiv 2502.13533)."""

from dataclasses import replace
from pathlib import Path

from loragen.adapters import recover as recovering
from loragen.adapters.folders import find_adapter
from loragen.adapters.index_map import PRUNED, IndexMap
from loragen.bases.architecture import Architecture
from loragen.bases.hub import local_model, weights_hash
from loragen.errors import ConfigError, cut, shown
from loragen.inference import Adapter, opened_adapter


def recover(adapter: Adapter | Path | str, *, index_map: Path | str | None = None, base: str | None = None) -> Adapter:
    """Make an adapter that was trained on a pruned base one of the full base, where it has zeros for what was pruned.

    The index map that `prune_base` wrote says what was pruned; it is saved along with the recovered adapter.

    Args:
        adapter: trained on the pruned base.
        index_map: file of the index map, or a folder with ``pruned.json``; by default that beside the adapter, or
            in the folder of the base that it names.
        base: stands in for the full base that the map names.

    Raises:
        AdapterError: the adapter cannot be used, or does not fit the map or the full base.
        ConfigError: there is no such map, or it is damaged.
    """
    opened = opened_adapter(adapter, None)
    kept = IndexMap.load(_map_file(None if isinstance(adapter, Adapter) else Path(adapter), opened.base, index_map))
    full = replace(kept, base=base) if base is not None else kept
    lora = recovering.recover(opened.lora, full)
    Architecture.check_at_hand(full.base, lora)
    card = opened.card and opened.card.model_copy(update={"base": full.base})
    notes = (*opened.notes, *_other_weights(full))
    return replace(
        opened,
        lora=lora,
        base=full.base,
        card=card,
        notes=notes,
        may_fetch_base=base is not None,
        saved_along={PRUNED: full.to_json()},
    )


def _map_file(folder: Path | None, base: str, given: Path | str | None) -> Path:
    """Where the index map is."""
    if given is not None:
        return Path(given)
    beside = find_adapter(folder)[0] / PRUNED if folder is not None else None
    if beside is not None and beside.is_file():
        return beside
    try:
        found = local_model(base)
    except ConfigError:
        found = None
    if found is None or not (found / PRUNED).is_file():
        raise ConfigError(
            f"There is no {PRUNED} beside the adapter, nor in the folder of its base {shown(base)}; give the index map "
            "of the pruned base that it was trained on with --map."
        )
    return found / PRUNED


def _other_weights(full: IndexMap) -> tuple[str, ...]:
    """A remark where the full base is at hand, but has other weights than the one that was pruned."""
    try:
        folder = local_model(full.base)
        met = weights_hash(folder) if folder is not None else full.base_hash
    except ConfigError:
        return ()
    if not full.base_hash or met == full.base_hash:
        return ()
    return (f"the base {cut(full.base)} has other weights than the one that was pruned",)
