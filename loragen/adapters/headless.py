"""Adapters of classifiers without their heads: what is left adapts the model inside, which gives features.

A class such as ``BertForSequenceClassification`` holds the model under one name (transformers' ``base_model_prefix``:
``bert``, ``model``, ``transformer``), and its head beside it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from loragen.adapters.key_names import NamedTensors
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError

_STACKS = {"encoder", "decoder", "layers", "layer", "blocks", "block", "h"}


def without_head(settings: LoraSettings, tensors: NamedTensors) -> tuple[LoraSettings, NamedTensors, str]:
    """Settings and tensors of the model inside alone, and what was left out, in words.

    Raises:
        AdapterError: the names do not tell the model from its head.
    """
    sites = [*tensors.lora_A, *tensors.lora_B]
    prefix = _prefix(sites)
    inside = {site: site.removeprefix(prefix) for site in sites if site.startswith(prefix)}
    head = [name for name in (*sites, *tensors.others) if not name.startswith(prefix)]
    kept = NamedTensors(
        _renamed(tensors.lora_A, inside),
        _renamed(tensors.lora_B, inside),
        {name.removeprefix(prefix): weight for name, weight in tensors.saved_along.items()},
        {name: key for name, key in tensors.others.items() if name.startswith(prefix)},
        tensors.renamed,
    )
    told = ", ".join(sorted({name.partition(".")[0] for name in head})) or "no weights"
    note = (
        f"read without its head ({told}) as FEATURE_EXTRACTION, with sites of the model inside ({prefix!r} taken off)"
    )
    return _moved(settings, inside), kept, note


def _prefix(sites: Iterable[str]) -> str:
    """The name of the model inside with its dot: that under which the numbered layers lie, or else all sites."""
    named = list(sites)
    numbered = [site for site in named if any(part.isdecimal() for part in site.split("."))]
    first = {site.partition(".")[0] for site in numbered or named}
    if len(first) != 1 or first & _STACKS:
        raise AdapterError(
            f"its sites begin with {', '.join(sorted(first)[:4]) or 'nothing'}, so that they do not tell the model "
            "from its head: classes of transformers keep the model under one name, such as bert. Use it with PEFT."
        )
    return f"{first.pop()}."


def _renamed(factors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    return {names[site]: factor for site, factor in factors.items() if site in names}


def _moved(settings: LoraSettings, names: Mapping[str, str]) -> LoraSettings:
    """Settings that give each site under its new name what they gave it under the old one."""
    if left_out := [site for site in names if not settings.targets(site)]:
        raise AdapterError(f"{left_out[0]} has weights, but target_modules leaves it out; name it there.")
    ranks = {new: settings.rank(old) for old, new in names.items()}
    alphas = {new: settings.alpha(old) for old, new in names.items()}
    return replace(
        settings,
        task_type="FEATURE_EXTRACTION",
        target_modules=tuple(ranks),
        rank_pattern={_exactly(site): rank for site, rank in ranks.items() if rank != settings.r},
        alpha_pattern={_exactly(site): alpha for site, alpha in alphas.items() if alpha != settings.lora_alpha},
    )


def _exactly(site: str) -> str:
    return f"^{re.escape(site)}"
