"""What is no LoRA of PEFT's, called by its name with the way out: other methods, other tools, other kinds of files."""

import re
from collections.abc import Mapping
from typing import Any

from loragen.errors import shown

_WITHOUT = "export the adapter without it"
_IMAGES = "loragen takes adapters of transformers models; use it with diffusers, for whose image models it was made"
_METHOD = "merge it with PEFT's merge_and_unload, or train a plain LoRA"
_CONVERT = "convert it to PEFT's format with the tool that wrote it"

# The first pattern that is found in a key says what it is.
_KEYS = (
    (r"^lora_(unet|te\d?|transformer|prior)_", "kohya's naming", _IMAGES),
    (r"\.(lora_down|lora_up)\.weight$|\.alpha$", "kohya's naming", _IMAGES),
    (r"\.lora\.(down|up)\.weight$|lora_linear_layer|^(unet|text_encoder(_\d)?)\..*lora", "diffusers' naming", _IMAGES),
    (r"hada_w|lokr_w|\.lokr_|\.hada_", "part of a LyCORIS adapter (LoHa or LoKr)", _METHOD),
    (r"oft_(r|s|blocks|diag)|\.oft_R\b|boft_", "part of OFT or BOFT", _METHOD),
    (r"ia3_l", "part of IA³, which scales outputs", _METHOD),
    (r"prompt_embeddings|prompt_encoder|prefix", "part of a prompt or prefix, and no LoRA", _METHOD),
    (r"lora_E\b|ranknum", "part of AdaLoRA", _METHOD),
    (r"vera_|\.vblora_|fourierft|\.xlora", "part of another method than LoRA", _METHOD),
    (r"lora_embedding_", "part of an adapted embedding, where only linear modules are supported", _WITHOUT),
    (r"lora_magnitude_vector|\.dora_scale|\.magnitude$", "part of DoRA, whose update is more than B·A", _WITHOUT),
    (r"lora_B(\.[^.]+)?\.bias$", "a bias trained beside B (lora_bias)", _WITHOUT),
    (r"(weight|input)_scale(_inv)?$|scale_weight$", "a scale of quantised weights", "save the factors in float32"),
    (r"\.loras\.|\.adapters\.|adapter_(down|up)|\.prefix_tuning", "AdapterHub's naming", _CONVERT),
    (r"\.lora_[ab](\.weight)?$", "the naming of MLX or torchtune", _CONVERT),
    (r"\.lora_[AB]$", "the naming of loralib or AdapterHub", _CONVERT),
    (r"optimizer|exp_avg|param_groups", "state of an optimiser", _WITHOUT),
)
_MODEL = ("architectures", "model_type", "hidden_size", "vocab_size", "_class_name")
_METHODS = {
    "ADALORA": "AdaLoRA, whose ranks differ and whose update is scaled in between",
    "IA3": "IA³, which scales outputs and adds nothing",
    "LOHA": "LoHa, whose update is a product of two",
    "LOKR": "LoKr, whose update is a Kronecker product",
    "VERA": "VeRA, whose factors are random and shared",
    "PREFIX_TUNING": "a prefix, and no update of weights",
    "PROMPT_TUNING": "a prompt, and no update of weights",
    "P_TUNING": "a prompt, and no update of weights",
    "MULTITASK_PROMPT_TUNING": "a prompt, and no update of weights",
    "ADAPTION_PROMPT": "a prompt, and no update of weights",
    "OFT": "a rotation of weights",
    "BOFT": "a rotation of weights",
    "XLORA": "a mixture of several adapters",
}


def foreign_key(name: str) -> tuple[str, str]:
    """What a key stands for that is no factor of PEFT's LoRA, and the way out."""
    for pattern, reason, way_out in _KEYS:
        if re.search(pattern, name):
            return reason, way_out
    if is_whole_weight(name):
        return "a whole weight and no LoRA factor in PEFT naming", _WITHOUT
    return "no LoRA factor in PEFT naming", _WITHOUT


def is_whole_weight(name: str) -> bool:
    """True for the key of a module's own weight or bias, such as a head's."""
    return ".lora_" not in name and re.search(r"\.(weight|bias)$", name) is not None


def foreign_config(config: Mapping[str, Any]) -> str | None:
    """What a config is that has no ``peft_type`` of LoRA, and the way out; `None` for one of a LoRA of PEFT's."""
    kind = config.get("peft_type")
    if kind == "LORA":
        return None
    if kind is not None:
        what = f" ({_METHODS[kind]})" if isinstance(kind, str) and kind in _METHODS else ""
        return f"has peft_type={shown(kind)}{what}; only 'LORA' is supported: {_METHOD}"
    if "config" in config and ("hidden_size" in config or "model_class" in config):
        return f"has no peft_type: it is of an adapter of AdapterHub's; {_CONVERT}"
    if met := [key for key in _MODEL if key in config]:
        told = ", ".join(f"{key}={shown(config[key])}" for key in met[:2])
        return (
            f"has no peft_type: it is the config of a whole model ({told}), not of an adapter; put the file there that "
            "PEFT's save_pretrained wrote beside the adapter's weights"
        )
    return "has peft_type=None; only 'LORA' is supported: give the config that PEFT's save_pretrained wrote"
