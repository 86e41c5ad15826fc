"""Names of an adapter's sites in a base whose modules transformers has renamed since the adapter was made.

As transformers renames the keys of a checkpoint, by its own function, which PEFT uses for most models too.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.bases.empty_model import config_folder, empty_model
from loragen.errors import AdapterError


def names_in(model: Any, sites: Sequence[str]) -> dict[str, str | None]:
    """Each site → its name in a model of transformers; its own where nothing was renamed.

    `None` stands for a site whose weight the model keeps together with others in one tensor, as it does with the
    experts of a layer: there is no module of it any more.
    """
    here = {name for name, _ in model.named_modules()}
    names: dict[str, str | None] = {site: site for site in sites}
    old = [site for site in sites if site not in here]
    for site, new in _by_transformers(model, old).items() if old else ():
        if new is None or new in here:
            names[site] = new
    return names


def _by_transformers(model: Any, sites: Sequence[str]) -> dict[str, str | None]:
    """Each site → what transformers calls its weight's module as it loads a checkpoint; `None` if it is fused."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    conversions = get_model_conversion_mapping(model)
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]
    converters = [each for each in conversions if isinstance(each, WeightConverter)]
    found: dict[str, str | None] = {}
    for site in sites:
        key, fused_by = rename_source_key(f"{site}.weight", renamings, converters)
        found[site] = None if fused_by is not None else key.removesuffix(".weight")
    return found


def renamed(adapter: Lora, base: Architecture) -> Lora:
    """An adapter under the names that its sites have in a base; itself where nothing was renamed.

    Raises:
        AdapterError: its sites are experts that the base keeps fused.
    """
    if not base.unknown(adapter.sites):
        return adapter
    names = names_in(_laid_out(base), adapter.sites)
    refuse_fused(names, base.model_class)
    return relabelled(adapter, {old: new or old for old, new in names.items()})


def fused(adapter: Lora, base: Architecture) -> tuple[str, ...]:
    """Sites of an adapter that a base has no modules for, since it keeps their weights together in one tensor."""
    if not base.unknown(adapter.sites):
        return ()
    return tuple(old for old, new in names_in(_laid_out(base), adapter.sites).items() if new is None)


def refuse_fused(names: Mapping[str, str | None], model_class: str) -> None:
    """Refuse sites that a base has no modules for any more.

    Raises:
        AdapterError: there are such sites.
    """
    if gone := [old for old, new in names.items() if new is None]:
        raise AdapterError(
            f"The adapter updates {gone[0]!r}, but transformers keeps that weight of {model_class} together "
            "with others in one tensor, as with the experts of a layer, which is not supported here; use the adapter "
            "with PEFT, or one without these sites."
        )


def moved(adapter: Lora, base: Architecture) -> Lora | None:
    """An adapter of one class of a model on another: the inner model's names lack the prefix that a head's class has.

    `None` where the base lacks a site under either name.
    """
    for add, drop in (("", ""), *((prefix, "") for prefix in _prefixes(base)), *(("", p) for p in _outer(adapter))):
        names = {site: add + site.removeprefix(drop) for site in adapter.sites}
        if all(new in base.linear and old.startswith(drop) for old, new in names.items()):
            return relabelled(adapter, names)
    return None


def relabelled(adapter: Lora, names: Mapping[str, str]) -> Lora:
    """An adapter with other names for its sites, each named in full; scalings stay."""
    if all(old == new for old, new in names.items()):
        return adapter
    settings = adapter.settings
    ranks, alphas = {}, {}
    for old, new in names.items():
        rank = settings.rank(old)
        if rank != settings.r:
            ranks[f"^{re.escape(new)}"] = rank
        if settings.alpha_pattern:
            alphas[f"^{re.escape(new)}"] = settings.scaling(old) * (rank**0.5 if settings.use_rslora else rank)
    return Lora(
        replace(settings, target_modules=tuple(names.values()), rank_pattern=ranks, alpha_pattern=alphas),
        {new: adapter.lora_A[old] for old, new in names.items()},
        {new: adapter.lora_B[old] for old, new in names.items()},
    )


def _laid_out(base: Architecture) -> Any:
    return empty_model(base.name, config_folder(base.name, is_local=True), base.model_class)


def _prefixes(base: Architecture) -> list[str]:
    """First parts of the names of modules, each with its dot."""
    return sorted({f"{name.partition('.')[0]}." for name in base.linear if "." in name})


def _outer(adapter: Lora) -> list[str]:
    """The first part that all sites share, with its dot."""
    firsts = {site.partition(".")[0] for site in adapter.sites}
    return [f"{first}." for first in firsts] if len(firsts) == 1 else []
