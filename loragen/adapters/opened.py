"""An adapter folder of anyone's, opened: what PEFT wrote as PEFT reads it, and what is near to it with a remark.

Whatever would change the update is refused by name, never dropped in silence.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loragen.adapters import mlx
from loragen.adapters.folders import WEIGHTS_NAME, find_adapter, read_weights
from loragen.adapters.foreign import is_whole_weight
from loragen.adapters.headless import without_head as headless
from loragen.adapters.key_names import NamedTensors, named_tensors, refuse_others
from loragen.adapters.narrowing import KEYS, Narrowing
from loragen.adapters.origin import Origin
from loragen.adapters.reading import read_json, read_tensors
from loragen.adapters.settings import CONFIG_NAME, HEADED, PATTERN_SECONDS, WITHOUT_HEAD, LoraSettings, natural
from loragen.errors import AdapterError

_FLOAT8 = tuple(
    getattr(torch, name)
    for name in ("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
    if hasattr(torch, name)
)
"""Types that PEFT converts to float32."""


@dataclass(frozen=True, eq=False)
class Opened:
    """The parts of an adapter."""

    settings: LoraSettings
    lora_A: Mapping[str, Tensor]
    lora_B: Mapping[str, Tensor]
    origin: Origin


def opened(folder: Path, *, without_head: bool = False) -> Opened:
    """Read an adapter folder.

    Args:
        folder: of the adapter, or with one adapter in it.
        without_head: read the adapter of a classifier as one of the model inside.

    Raises:
        AdapterError: the folder is missing, damaged, or holds something unsupported.
    """
    found, remark = find_adapter(folder)
    config = read_json(found / CONFIG_NAME)
    notes = [] if remark is None else [remark]
    if mlx.is_mlx(config):
        settings, *factors = mlx.from_mlx(config, read_tensors(found / mlx.WEIGHTS_NAME))
        notes.append(
            f"an adapter of MLX: its factors are transposed, and its scale {settings.scaling(''):g} is written as "
            f"lora_alpha {settings.lora_alpha:g}; where its base is in MLX's format, name the original with --base"
        )
        return Opened(settings, factors[0], factors[1], Origin(tuple(notes), is_rewritten=True))
    opened_there = _from_peft(found, config, without_head=without_head)
    origin = replace(opened_there.origin, notes=(*notes, *opened_there.origin.notes))
    return replace(opened_there, origin=origin)


def _from_peft(folder: Path, config: Mapping[str, Any], *, without_head: bool) -> Opened:
    if without_head and config.get("task_type") not in (None, "FEATURE_EXTRACTION", *HEADED):
        raise AdapterError(
            f"its task type is {config['task_type']!r:.40}, which has no head to leave out; read it as it is."
        )
    settings = LoraSettings.from_config(config, without_head=without_head)
    tensors, source = read_weights(folder)
    named = named_tensors(tensors, source)
    if narrowing := Narrowing.from_config(config):
        settings = _narrowed(settings, narrowing, named)
    notes, is_rewritten = [], bool(named.renamed) or source != WEIGHTS_NAME
    has_head = settings.task_type in HEADED or (settings.task_type is None and bool(config.get("modules_to_save")))
    if without_head and has_head:
        settings, named, note = headless(settings, named)
        notes.append(note)
        is_rewritten = True
    elif has_head:
        _refuse_head(named, source)
    refuse_others(named.others, source)
    if named.renamed:
        notes.append(named.renamed)
    factors, remark = _widened(named)
    notes += remark
    if named.saved_along:
        notes.append(_say_saved_along(named))
    return Opened(settings, *factors, Origin(tuple(notes), is_rewritten, named.saved_along))


def _narrowed(settings: LoraSettings, narrowing: Narrowing, named: NamedTensors) -> LoraSettings:
    """Settings that name the sites of the weights outright."""
    sites = tuple(sorted(named.lora_A, key=natural))
    begun = time.monotonic()
    for site in sites:
        if settings.targets(site) and not narrowing.keeps(site, settings):
            raise AdapterError(
                f"{site} has weights, but {', '.join(KEYS)} leave it out, so that PEFT would not load them; correct "
                "these, or drop its weights."
            )
        if time.monotonic() - begun > PATTERN_SECONDS:
            raise AdapterError(
                f"its patterns take over {PATTERN_SECONDS:.0f} s; write exclude_modules and layers_pattern without "
                "nested repetitions, or list the names of the modules."
            )
    if uncovered := [site for site in sites if not settings.targets(site)]:
        raise AdapterError(
            f"{uncovered[0]} has weights, but target_modules leaves it out, so that PEFT would not load them; name it "
            "there or drop its weights."
        )
    return replace(settings, target_modules=sites)


def _refuse_head(named: NamedTensors, source: str) -> None:
    if head := [key for name, key in named.others.items() if is_whole_weight(name)]:
        raise AdapterError(f"{source} holds {head[0]}: where that is the head of a classifier, {WITHOUT_HEAD}.")


def _widened(named: NamedTensors) -> tuple[tuple[dict[str, Tensor], dict[str, Tensor]], list[str]]:
    """The factors with those of 8 bits in float32, as PEFT has them, and a remark on that."""
    types = sorted({str(t.dtype) for t in (*named.lora_A.values(), *named.lora_B.values()) if t.dtype in _FLOAT8})
    lora_a, lora_b = (
        {site: t.float() if t.dtype in _FLOAT8 else t for site, t in group.items()}
        for group in (named.lora_A, named.lora_B)
    )
    told = ", ".join(name.removeprefix("torch.") for name in types)
    return (lora_a, lora_b), [
        f"its weights are in {told}; they are read as float32, as PEFT reads them"
    ] if types else []


def _say_saved_along(named: NamedTensors) -> str:
    names = ", ".join(sorted(named.saved_along)[:4])
    return f"weights of the base lie beside the adapter ({names}) and are left out, which is right where they are equal"
