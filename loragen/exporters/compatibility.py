"""Verdicts by rule for PEFT, vLLM and LoRAX: whether they load an adapter, and what they would do wrong in silence.

The rules are those of their sources and documentation of September 2026, in the files that are named below. No server
is run.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loragen.adapters.adapter import Lora, Site
from loragen.bases.architecture import Blueprint

# vllm/config/lora.py: MaxLoRARanks and its default.
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
VLLM_DEFAULT_RANK = 16
_VLLM_REQUIRED = ("r", "lora_alpha", "target_modules")
_VLLM_REFUSED = {"modules_to_save": None, "use_dora": False, "bias": "none"}  # key → the one value it takes

# The LoRA column of docs/models/supported_models.md and docs/models/pooling_models/embed.md, as far as transformers has
# the architectures itself. Classes made of one model for several purposes share its support.
_VLLM_ADAPTS = """
    Afmoe Apertus Arcee Blip2 Cohere Cohere2 Cohere2Moe Cwm DeepseekV2 DeepseekV3 DeepseekV32 Ernie4_5 Ernie4_5_Moe
    Exaone4 FalconH1 GPTBigCode Gemma Gemma2 Gemma3 Gemma4 Glm Glm4 Glm4Moe Glm4MoeLite Glm4v GlmMoeDsa GptOss Granite
    GraniteMoe GraniteMoeHybrid GraniteMoeShared HYV3 HunYuanDenseV1 HunYuanMoEV1 HyperCLOVAX Idefics3 InternVL Jamba
    Lfm2 Lfm2Moe Llama Llama4 Llava LlavaNext LongcatFlash MiniCPM3 MiniMaxM2 Mistral Mistral3 Mixtral Nemotron
    NemotronH OPT Olmo Olmo2 Olmo3 OlmoHybrid PaliGemma Phi Phi3 Qwen2 Qwen2Moe Qwen2VL Qwen2_5_VL Qwen3 Qwen3Moe
    Qwen3Next Qwen3VL Qwen3VLMoe Qwen3_5 Qwen3_5Moe SeedOss SmolLM3 SmolVLM Starcoder2 VaultGemma
"""
_VLLM_SERVES_BARE = """
    Bert Bloom CLIP Dbrx ExaoneMoe Falcon FalconMamba FlexOlmo GPT2 GPTJ GPTNeoX Gemma3n Jais2 LlavaOnevision Mamba
    Mamba2 Mpt NomicBert Olmoe Qwen2Audio Roberta Siglip StableLm XLMRoberta Zamba2
"""
_VLLM_SINCE = {"ModernBertModel": "pull request 57148 of September 2026"}

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

_MERGE = "`loragen merge ADAPTER --out MODEL` makes a plain model of it"
_OTHER_BASE = "serve it on the base it was made for"
_UNCHECKED = "not compared with the base, whose config is not at hand"


@dataclass(frozen=True)
class Verdict:
    """What a server makes of an adapter."""

    server: str
    loads: bool
    """Whether the server takes the adapter at all, however wrong it then serves it."""
    problems: tuple[str, ...] = ()
    """Why it does not load, or what is wrong in silence, each with the way out."""
    notes: tuple[str, ...] = ()


def verdicts(
    adapter: Lora,
    *,
    config: Mapping[str, Any] | None = None,
    base: Blueprint | None = None,
    served: Blueprint | None = None,
) -> tuple[Verdict, ...]:
    """Judge an adapter for PEFT, vLLM and LoRAX.

    Args:
        adapter: the adapter.
        config: its ``adapter_config.json`` as it stands; by default what `Lora.save` would write.
        base: its base as the class that the adapter was made on; ``None`` if it is not at hand.
        served: its base as servers build it, as the class that its config names; by default ``base``.
    """
    config = adapter.settings.to_config() if config is None else config
    served = served or base
    return peft(adapter, base), vllm(adapter, config, served), lorax(adapter, served)


def peft(adapter: Lora, base: Blueprint | None) -> Verdict:
    """Judge by PEFT's rules, as met in version 0.21 (``PeftModel.from_pretrained``).

    target_modules chooses the modules, which are then filled from the file by their full names: a key without a module
    is dropped without a word, a module without a key is warned of and stays as the base has it.
    """
    if base is None:
        return _verdict("PEFT", notes=[_UNCHECKED])
    refusals = _wrong_shapes(adapter, base)
    silent: list[str] = []
    notes: list[str] = []
    if strays := base.strays(adapter.sites):
        refusals.append(f"{strays[0]!r} is no linear module; make the adapter without it.")
    if unknown := base.unknown(adapter.sites):
        way_out = _names_wanted(base, unknown) or _OTHER_BASE
        if any(adapter.settings.targets(module) for module in (*base.linear, *base.others)):
            silent.append(f"PEFT leaves out {_count(unknown, adapter)} without an error; {way_out}.")
        else:
            refusals.append(f"target_modules matches no module of {base.model_class}; {way_out}.")
    elif adapter.settings.fan_in_fan_out != base.stores_transposed(adapter.sites):
        notes.append("fan_in_fan_out is wrong; PEFT puts it right with a warning")
    return _verdict("PEFT", refusals, silent, notes)


def vllm(adapter: Lora, config: Mapping[str, Any], base: Blueprint | None) -> Verdict:
    """Judge by vLLM's rules: vllm/lora/peft_helper.py, lora_model.py, model_manager.py and vllm/config/lora.py.

    Three keys must be there; modules_to_save, DoRA, trained biases and ranks above max_lora_rank are refused; r and
    lora_alpha alone give one scaling for all sites. A site whose last name no module has is refused. One whose last
    name is known, but whose path is not, is never applied, and the base answers (issue 34186); only a pooling model is
    also searched without the ``model.`` in front.
    """
    refusals = [f"adapter_config.json does not say {key}; add it." for key in _VLLM_REQUIRED if config.get(key) is None]
    for key, taken in _VLLM_REFUSED.items():
        if config.get(key) and config[key] != taken:
            refusals.append(f"vLLM refuses {key}={config[key]!r}; {_MERGE}.")
    silent = _misscaled("vLLM", adapter)
    notes: list[str] = []
    rank = max(adapter.settings.r, *(site.r for site in adapter.spec.sites))
    if rank > VLLM_RANKS[-1]:
        lower = f"`loragen combine ADAPTER --rank {VLLM_RANKS[-1]} --out OUT`"
        refusals.append(f"vLLM takes ranks up to {VLLM_RANKS[-1]}, not {rank}; {lower} lowers it.")
    elif rank > VLLM_DEFAULT_RANK:
        room = next(allowed for allowed in VLLM_RANKS if allowed >= rank)
        notes.append(f"rank {rank} needs --max-lora-rank {room}, since {VLLM_DEFAULT_RANK} is the default")
    if base is None:
        return _verdict("vLLM", refusals, silent, [*notes, _UNCHECKED])
    on_base = _vllm_on(base, adapter)
    return _verdict(
        "vLLM", [*refusals, *on_base[0], *_wrong_shapes(adapter, base)], [*silent, *on_base[1]], [*notes, *on_base[2]]
    )


def _vllm_on(base: Blueprint, adapter: Lora) -> tuple[list[str], list[str], list[str]]:
    refusals, silent, notes = [], [], []
    served = base.model_class
    family = re.sub("(TextModel|LMHeadModel|Model|For[A-Z][A-Za-z]+)$", "", served)
    if family in _VLLM_SERVES_BARE.split():
        refusals.append(f"vLLM serves {served} without adapters only; {_MERGE}.")
    elif served in _VLLM_SINCE:
        notes.append(f"vLLM takes adapters for {served} since {_VLLM_SINCE[served]}; older ones refuse them")
    elif family not in _VLLM_ADAPTS.split() and base.is_encoder_decoder:
        refusals.append(f"vLLM takes no adapters for an encoder-decoder such as {served}; {_MERGE}.")
    elif family not in _VLLM_ADAPTS.split():
        notes.append(f"vLLM's list of models does not say whether {served} takes adapters: try it")
    unknown = [site for site in adapter.sites if site not in base.linear]
    endings = {_ending(module) for module in base.linear}
    if nameless := [site for site in unknown if _ending(site) not in endings]:
        refusals.append(f"No module of {served} is called as {nameless[0]!r} ends; make the adapter without it.")
    elif unknown and adapter.settings.task_type == "FEATURE_EXTRACTION" and base.renaming(unknown) == ("", "model."):
        notes.append("serve it with --runner pooling: only there vLLM finds sites that lack the base's 'model.'")
    elif unknown:
        way_out = _names_wanted(base, unknown) or _OTHER_BASE
        silent.append(f"vLLM leaves out {_count(unknown, adapter)} without an error (issue 34186); {way_out}.")
    return refusals, silent, notes


def lorax(adapter: Lora, base: Blueprint | None) -> Verdict:
    """Judge by LoRAX's rules: server/lorax_server/adapters/lora.py, utils/punica.py, models/model.py and its docs.

    Its own list of modules is looked up in the file by full names, and what else is there is ignored. The factors of a
    kind of module, such as q_proj, are stacked over the layers: if one layer lacks it, all lose it, and padded ranks
    must agree. r and lora_alpha alone give one scaling for all sites.
    """
    silent = _misscaled("LoRAX", adapter)
    if base is None:
        return _verdict("LoRAX", silent=silent, notes=[_UNCHECKED])
    refusals = _wrong_shapes(adapter, base)
    if base.model_type not in LORAX_MODULES:
        refusals.append(f"LoRAX takes adapters for {', '.join(LORAX_MODULES)}, not for {base.model_type}; {_MERGE}.")
        return _verdict("LoRAX", refusals, silent)
    kinds = _lorax_kinds(adapter, base)
    mapped = {site.name for sites in kinds.values() for site in sites}
    if ignored := [site for site in adapter.sites if site not in mapped]:
        way_out = _names_wanted(base, ignored) or _MERGE
        silent.append(f"LoRAX leaves out {_count(ignored, adapter)} without an error; {way_out}.")
    for kind, sites in kinds.items():
        layers = sum(_kind(module) == kind for module in base.linear)
        if len(sites) < layers:
            silent.append(f"LoRAX drops {kind} from all layers, since {len(sites)} of {layers} have it; {_MERGE}.")
        if len({_padded(site.r) for site in sites}) > 1:
            refusals.append(f"LoRAX stacks {kind} over the layers, but their ranks differ; {_MERGE}.")
    notes = []
    if len(kinds) > 1 and any(_padded(site.r) != adapter.settings.r for sites in kinds.values() for site in sites):
        notes.append(
            "LoRAX pads ranks to 8 or a multiple of 16, and by its source scales all kinds of module after the first "
            "by the padded rank: compare its answers with PEFT's"
        )
    return _verdict("LoRAX", refusals, silent, notes)


def _lorax_kinds(adapter: Lora, base: Blueprint) -> dict[str, list[Site]]:
    kinds = defaultdict(list)
    for site in adapter.spec.sites:
        if site.name in base.linear and _ending(site.name) in LORAX_MODULES[base.model_type]:
            kinds[_kind(site.name)].append(site)
    return kinds


def _verdict(
    server: str, refusals: Sequence[str] = (), silent: Sequence[str] = (), notes: Sequence[str] = ()
) -> Verdict:
    return Verdict(server, not refusals, (*refusals, *silent), tuple(notes))


def _wrong_shapes(adapter: Lora, base: Blueprint) -> list[str]:
    return [
        f"{site.name!r} has another shape in {base.model_class}; {_OTHER_BASE}."
        for site in base.misshapen(adapter.spec)[:1]
    ]


def _misscaled(server: str, adapter: Lora) -> list[str]:
    """Whether a scaling differs from what r and lora_alpha alone say."""
    plain = replace(adapter.settings, rank_pattern={}, alpha_pattern={})
    for site in adapter.sites:
        meant, met = adapter.settings.scaling(site), plain.scaling(site)
        if not math.isclose(meant, met):
            return [
                f"{server} knows no rank_pattern or alpha_pattern and would scale {site!r} by {met:.4g} instead of "
                f"{meant:.4g}; `loragen combine ADAPTER --out OUT` writes it with one scaling."
            ]
    return []


def _names_wanted(base: Blueprint, sites: Sequence[str]) -> str:
    prefixes = base.renaming(sites)
    return f"rename {sites[0]!r} to {prefixes[1] + sites[0][len(prefixes[0]) :]!r} and so on" if prefixes else ""


def _count(sites: Sequence[str], adapter: Lora) -> str:
    if len(sites) == len(adapter.sites):
        return "all of its sites"
    return f"{len(sites)} of its {len(adapter.sites)} sites (such as {sites[0]!r})"


def _ending(path: str) -> str:
    return path.rpartition(".")[2]


def _kind(path: str) -> str:
    """A module's path with a star for the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", path, count=1)


def _padded(rank: int) -> int:
    return 8 if rank <= 8 else -(-rank // 16) * 16
