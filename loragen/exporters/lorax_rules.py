"""Verdict on an adapter in LoRAX, by the rules of its sources and documentation of September 2026; LoRAX is not run."""

import re
from collections import defaultdict
from collections.abc import Mapping

from loragen.adapters.adapter import Lora, Site
from loragen.bases.architecture import Architecture
from loragen.exporters.verdict import (
    MERGE,
    UNCHECKED,
    Verdict,
    counted,
    last_name,
    way_to_rename,
    wrong_scaling,
    wrong_shapes,
)

# docs/models/adapters/lora.md, by the model_type of server/lorax_server/models/__init__.py; gemma2: flash_gemma2.py.
_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_LLAMA = (*_ATTENTION, "gate_proj", "up_proj", "down_proj")
LORAX_MODULES: Mapping[str, tuple[str, ...]] = {
    "llama": (*_LLAMA, "lm_head"),
    "mistral": (*_LLAMA, "lm_head"),
    "mixtral": (*_ATTENTION, "lm_head"),
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2", "lm_head"),
    "qwen2": (*_LLAMA, "lm_head"),
    "cohere": (*_LLAMA, "lm_head"),
    "dbrx": ("Wqkv", "out_proj", "lm_head"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "bloom": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "lm_head"),
}


def judge_lorax(adapter: Lora, base: Architecture | None) -> Verdict:
    """Judge by LoRAX's rules: server/lorax_server/adapters/lora.py, utils/punica.py, models/model.py and its docs.

    Its own list of modules is looked up in the file by full names, and what else is there is ignored. The factors of a
    kind of module, such as q_proj, are stacked over the layers: if one layer lacks it, all lose it, and padded ranks
    must agree. r and lora_alpha alone give one scaling for all sites.
    """
    silent = wrong_scaling("LoRAX", adapter)
    if base is None:
        return Verdict.of("LoRAX", silent=silent, notes=[UNCHECKED])
    refusals = wrong_shapes(adapter, base)
    if base.model_type not in LORAX_MODULES:
        refusals.append(f"LoRAX takes adapters for {', '.join(LORAX_MODULES)}, not for {base.model_type}; {MERGE}.")
        return Verdict.of("LoRAX", refusals, silent)
    kinds = _lorax_kinds(adapter, base)
    mapped = {site.name for sites in kinds.values() for site in sites}
    if ignored := [site for site in adapter.sites if site not in mapped]:
        way_out = way_to_rename(base, ignored) or MERGE
        silent.append(f"LoRAX leaves out {counted(ignored, adapter)} without an error; {way_out}.")
    for kind, sites in kinds.items():
        layers = sum(_kind(module) == kind for module in base.linear)
        if len(sites) < layers:
            silent.append(f"LoRAX drops {kind} from all layers, since {len(sites)} of {layers} have it; {MERGE}.")
        if len({_padded(site.r) for site in sites}) > 1:
            refusals.append(f"LoRAX stacks {kind} over the layers, but their ranks differ; {MERGE}.")
    notes = []
    if len(kinds) > 1 and any(_padded(site.r) != adapter.settings.r for sites in kinds.values() for site in sites):
        notes.append(
            "LoRAX pads ranks to 8 or a multiple of 16, and by its source scales all kinds of module after the first "
            "by the padded rank: compare its answers with PEFT's"
        )
    return Verdict.of("LoRAX", refusals, silent, notes)


def _lorax_kinds(adapter: Lora, base: Architecture) -> dict[str, list[Site]]:
    kinds = defaultdict(list)
    for site in adapter.spec.sites:
        if site.name in base.linear and last_name(site.name) in LORAX_MODULES[base.model_type]:
            kinds[_kind(site.name)].append(site)
    return kinds


def _kind(path: str) -> str:
    """A module's path with a star for the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", path, count=1)


def _padded(rank: int) -> int:
    return 8 if rank <= 8 else -(-rank // 16) * 16
