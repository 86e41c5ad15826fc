"""Verdict on an adapter in vLLM, by the rules of its sources and documentation of September 2026; vLLM is not run."""

import re
from collections.abc import Mapping
from typing import Any

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.exporters.verdict import (
    MERGE,
    OTHER_BASE,
    UNCHECKED,
    Verdict,
    counted,
    last_name,
    way_to_rename,
    wrong_scaling,
    wrong_shapes,
)

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


def judge_vllm(
    adapter: Lora, config: Mapping[str, Any], base: Architecture | None, *, is_renamed: bool = False
) -> Verdict:
    """Judge by vLLM's rules: vllm/lora/peft_helper.py, lora_model.py, model_manager.py and vllm/config/lora.py.

    Three keys must be there; modules_to_save, DoRA, trained biases and ranks above max_lora_rank are refused; r and
    lora_alpha alone give one scaling for all sites. A site whose last name no module has is refused. One whose last
    name is known, but whose path is not, is never applied, and the base answers (issue 34186); only a pooling model is
    also searched without the ``model.`` in front. ``is_renamed`` says that the file has older names for the sites.
    """
    refusals = [f"adapter_config.json does not say {key}; add it." for key in _VLLM_REQUIRED if config.get(key) is None]
    for key, taken in _VLLM_REFUSED.items():
        if config.get(key) and config[key] != taken:
            refusals.append(f"vLLM refuses {key}={config[key]!r}; {MERGE}.")
    silent = wrong_scaling("vLLM", adapter)
    notes: list[str] = []
    rank = max(adapter.settings.r, *(site.r for site in adapter.spec.sites))
    if rank > VLLM_RANKS[-1]:
        lower = f"`loragen combine ADAPTER --rank {VLLM_RANKS[-1]} --out OUT`"
        refusals.append(f"vLLM takes ranks up to {VLLM_RANKS[-1]}, not {rank}; {lower} lowers it.")
    elif rank > VLLM_DEFAULT_RANK:
        room = next(allowed for allowed in VLLM_RANKS if allowed >= rank)
        notes.append(f"rank {rank} needs --max-lora-rank {room}, since {VLLM_DEFAULT_RANK} is the default")
    if is_renamed:
        notes.append("the file has older names for its sites, which vLLM maps as it maps those of checkpoints: try it")
    if base is None:
        return Verdict.of("vLLM", refusals, silent, [*notes, UNCHECKED])
    on_base = _vllm_on(base, adapter)
    return Verdict.of(
        "vLLM", [*refusals, *on_base[0], *wrong_shapes(adapter, base)], [*silent, *on_base[1]], [*notes, *on_base[2]]
    )


def _vllm_on(base: Architecture, adapter: Lora) -> tuple[list[str], list[str], list[str]]:
    """Refusals, silent problems and notes that the base gives rise to."""
    refusals, silent, notes = [], [], []
    served = base.model_class
    family = re.sub("(TextModel|LMHeadModel|Model|For[A-Z][A-Za-z]+)$", "", served)
    if family in _VLLM_SERVES_BARE.split():
        refusals.append(f"vLLM serves {served} without adapters only; {MERGE}.")
    elif served in _VLLM_SINCE:
        notes.append(f"vLLM takes adapters for {served} since {_VLLM_SINCE[served]}; older ones refuse them")
    elif family not in _VLLM_ADAPTS.split() and base.is_encoder_decoder:
        refusals.append(f"vLLM takes no adapters for an encoder-decoder such as {served}; {MERGE}.")
    elif family not in _VLLM_ADAPTS.split():
        notes.append(f"vLLM's list of models does not say whether {served} takes adapters: try it")
    unknown = [site for site in adapter.sites if site not in base.linear]
    endings = {last_name(module) for module in base.linear}
    if nameless := [site for site in unknown if last_name(site) not in endings]:
        refusals.append(f"No module of {served} is called as {nameless[0]!r} ends; make the adapter without it.")
    elif unknown and adapter.settings.task_type == "FEATURE_EXTRACTION" and base.renaming(unknown) == ("", "model."):
        notes.append("serve it with --runner pooling: only there vLLM finds sites that lack the base's 'model.'")
    elif unknown:
        way_out = way_to_rename(base, unknown) or OTHER_BASE
        silent.append(f"vLLM leaves out {counted(unknown, adapter)} without an error (issue 34186); {way_out}.")
    return refusals, silent, notes
