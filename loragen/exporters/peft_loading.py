"""Verdict on an adapter in PEFT, by PEFT itself: it loads the adapter on the base without memory.

The base is laid out on torch's meta device, where a parameter has a shape and no memory. PEFT does the rest as anywhere
else: it reads the config, adapts modules, renames keys where transformers has new names, and compares shapes.
"""

import json
import textwrap
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.adapters.key_names import site_of
from loragen.adapters.settings import CONFIG_NAME, natural
from loragen.bases.architecture import Architecture
from loragen.bases.empty_model import config_folder, empty_model
from loragen.errors import shown
from loragen.exporters.verdict import OTHER_BASE, REWRITE, UNCHECKED, Verdict, counted, way_to_rename
from loragen.patterns import SECONDS_OF_RE, finishes_in_re


@dataclass(frozen=True)
class PeftLoading:
    """Result of loading an adapter with PEFT."""

    error: str | None = None
    """PEFT's error on one line; `None` if it loads the adapter."""
    left_out: tuple[str, ...] = ()
    """Sites whose weights PEFT drops without an error."""
    unfilled: tuple[str, ...] = ()
    """Modules that PEFT adapts, and for which the file has no weights."""
    is_no_op: bool = False
    """True if no module got any of the adapter's weights."""
    sets_flag_right: bool = False
    """True if PEFT found a wrong fan_in_fan_out and took the right one."""

    @property
    def loads(self) -> bool:
        """True if PEFT takes the adapter, whatever it leaves out."""
        return self.error is None


def load_with_peft(folder: Path, base: Architecture) -> PeftLoading:
    """Load an adapter folder with the installed PEFT on a base without memory.

    Raises:
        ConfigError: the config of the base is gone, or transformers cannot lay it out any more.
    """
    import peft

    model = empty_model(base.name, config_folder(base.name, is_local=True), base.model_class)
    expressions = _expressions(json.loads((folder / CONFIG_NAME).read_bytes()))
    if not finishes_in_re(expressions, [name for name, _ in model.named_modules()]):
        return PeftLoading(
            error=f"no result within {SECONDS_OF_RE} s, over the patterns {shown(expressions)}; write them without "
            "nested repetitions, or list the names of the modules"
        )
    renamed = getattr(model, "_checkpoint_conversion_mapping", None)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            loaded = peft.PeftModel.from_pretrained(model, folder, torch_device="cpu", low_cpu_mem_usage=True)
            # Once more, for the keys: what PEFT learns of them as it loads, it does not hand on.
            weights = peft.load_peft_weights(str(folder), device="cpu", key_mapping=renamed)
            keys: Any = peft.set_peft_model_state_dict(loaded, weights, low_cpu_mem_usage=True)
        except Exception as error:  # a foreign adapter can fail at any place of PEFT
            return PeftLoading(error=_one_line(error))
    unfilled = _sites(key for key in keys.missing_keys if "lora_" in key)
    return PeftLoading(
        left_out=_sites(keys.unexpected_keys),
        unfilled=unfilled,
        is_no_op={*_sites(name for name, _ in loaded.named_parameters() if "lora_" in name)} <= {*unfilled},
        sets_flag_right=any("fan_in_fan_out" in str(each.message) for each in said),
    )


def _expressions(config: Mapping[str, Any]) -> list[str]:
    """What PEFT takes for regular expressions among the values of an adapter's config."""
    texts = [config.get(key) for key in ("target_modules", "exclude_modules", "layers_pattern")]
    listed = config.get("layers_pattern")
    patterns = [*(config.get("rank_pattern") or ()), *(config.get("alpha_pattern") or ())]
    return [
        text for text in (*texts, *(listed if isinstance(listed, list) else ()), *patterns) if isinstance(text, str)
    ]


def _sites(keys: Iterable[str]) -> tuple[str, ...]:
    """The modules of PEFT's keys; a key of another form stands for itself."""
    found = {site_of(key) or key for key in keys}
    return tuple(sorted(found, key=natural))


def _one_line(error: Exception) -> str:
    """An error in one line, with its kind where its text is a bare key."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return " ".join([type(error).__name__, *lines])
    return textwrap.shorten(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0], 240, placeholder=" …")


def judge_peft(
    adapter: Lora, config: Mapping[str, Any], base: Architecture | None, loading: PeftLoading | None
) -> Verdict:
    """The verdict that follows from loading an adapter with PEFT, with the way out of each problem.

    Args:
        adapter: the adapter.
        config: its ``adapter_config.json`` as it stands.
        base: its base, which names modules for the way out.
        loading: result of loading it; `None` if the base is not at hand.
    """
    if base is None or loading is None:
        return Verdict.of("PEFT", notes=[UNCHECKED])
    if loading.error is not None:
        return Verdict.of("PEFT", [f"PEFT ends with: {loading.error.rstrip('.')}; {_way_out(adapter, base)}."])
    silent, notes = [], []
    if left_out := loading.left_out:
        lost = adapter.sites if loading.is_no_op else left_out  # PEFT has other names for experts that it fuses
        way_out = REWRITE if adapter.origin.is_rewritten else way_to_rename(base, left_out) or OTHER_BASE
        silent.append(f"PEFT leaves out {counted(lost, adapter)} without an error; {way_out}.")
    elif renamed := base.unknown(adapter.sites):
        notes.append(f"PEFT finds {counted(renamed, adapter)} under the base's new names; other readers may not")
    if loading.unfilled and config.get("init_lora_weights") is False:
        silent.append(
            f"target_modules names {loading.unfilled[0]!r}, for which there are no weights, and PEFT fills it with "
            "random ones since init_lora_weights is false; set that to true in adapter_config.json."
        )
    elif loading.unfilled and not left_out:
        notes.append(
            f"PEFT warns that target_modules names {loading.unfilled[0]!r}, for which there are no weights; it stays "
            "as the base has it"
        )
    if loading.sets_flag_right:
        notes.append("fan_in_fan_out is wrong; PEFT puts it right with a warning")
    return Verdict.of("PEFT", silent=silent, notes=notes)


def _way_out(adapter: Lora, base: Architecture) -> str:
    """The way out of an error of PEFT's, from what of the adapter does not fit the base."""
    if adapter.origin.is_rewritten:
        return REWRITE
    if base.misshapen(adapter.spec):
        return OTHER_BASE
    if strays := base.strays(adapter.sites):
        return f"make the adapter without {strays[0]!r}"
    if unknown := base.unknown(adapter.sites):
        return way_to_rename(base, unknown) or OTHER_BASE
    if adapter.settings.task_type in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        return "where the base's own head is meant, set task_type to null in adapter_config.json"
    return "make the adapter again with the installed PEFT"
