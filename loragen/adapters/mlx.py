"""Adapters of MLX, Apple's framework, as LoRAs: factors transposed, and its scale as an alpha."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from loragen.adapters.key_names import EMBEDDINGS
from loragen.adapters.settings import CONFIG_NAME, LoraSettings
from loragen.errors import AdapterError, shown

WEIGHTS_NAME = "adapters.safetensors"

_KEY = re.compile(r"(?P<site>.+)\.lora_(?P<factor>[ab])")


def is_mlx(config: Mapping[str, Any]) -> bool:
    """True if a config is one that mlx-lm wrote."""
    return "peft_type" not in config and ("lora_parameters" in config or "fine_tune_type" in config)


def from_mlx(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[LoraSettings, dict[str, Tensor], dict[str, Tensor]]:
    """Settings and factors, A (r, in) and B (out, r), of an adapter whose update of an output is scale · x · a · b.

    Raises:
        AdapterError: it is no LoRA, its scale is not told without doubt, or its factors do not fit.
    """
    rank, scale = _rank_and_scale(config)
    factors: dict[str, dict[str, Tensor]] = {"a": {}, "b": {}}
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or not all(match["site"].split(".")):
            raise AdapterError(
                f"{WEIGHTS_NAME} holds {shown(key)}, which is no factor of a LoRA in MLX's naming; fuse the adapter "
                "with mlx_lm.fuse, or train a plain LoRA."
            )
        wanted = tensor.ndim == 2 and tensor.shape[1 if match["factor"] == "a" else 0] == rank
        if not wanted:
            raise AdapterError(
                f"{WEIGHTS_NAME} holds {shown(key)} of shape {tuple(tensor.shape)}, where MLX's rank {rank} wants "
                "lora_a of (in, r) and lora_b of (r, out); only linear modules are supported."
            )
        if match["site"].rpartition(".")[2] in EMBEDDINGS:
            raise AdapterError(f"{WEIGHTS_NAME} holds {shown(key)}: an embedding, where linear modules are supported.")
        factors[match["factor"]][match["site"]] = tensor.T.contiguous()
    base = config.get("model")
    settings = LoraSettings(
        r=rank,
        lora_alpha=scale * rank,
        target_modules=tuple(factors["a"]),
        base_model_name_or_path=base if isinstance(base, str) and base else None,
        task_type="CAUSAL_LM",  # mlx-lm trains nothing else
    )
    return settings, factors["a"], factors["b"]


def _rank_and_scale(config: Mapping[str, Any]) -> tuple[int, float]:
    kind = config.get("fine_tune_type", "lora")
    if kind != "lora" or config.get("use_dora"):
        met = "use_dora" if kind == "lora" else f"fine_tune_type={shown(kind)}"
        raise AdapterError(
            f"{CONFIG_NAME} is MLX's and has {met}; only 'lora' can be written as B·A: fuse it with mlx_lm.fuse."
        )
    values = config.get("lora_parameters")
    rank, scale, alpha = (values.get(key) if isinstance(values, dict) else None for key in ("rank", "scale", "alpha"))
    if not isinstance(rank, int) or isinstance(rank, bool) or not isinstance(scale, int | float) or abs(scale) > 1e30:
        raise AdapterError(
            f"{CONFIG_NAME} is MLX's and has lora_parameters={shown(values)}; a rank and a scale were wanted."
        )
    if alpha is not None:
        raise AdapterError(
            f"{CONFIG_NAME} is MLX's and gives lora_parameters both alpha and scale, which versions of mlx-lm "
            "multiply or do not; leave alpha out if yours ignores it, else set scale to scale · alpha / rank."
        )
    return rank, scale
