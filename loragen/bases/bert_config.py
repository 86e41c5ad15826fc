"""Configs of plain BERTs: what one is told by, and the sizes and names of its tensors that follow from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loragen.bases.pretrained import MOST_LAYERS

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
PLAIN = {"model_type": "bert", "hidden_act": "gelu"}
"""Entries of the config of a plain BERT."""
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "layer_norm_eps")
TABLES = ("word", "position", "token_type")
NORMS = ("attention.output.LayerNorm", "output.LayerNorm")


def read_config(folder: Path) -> dict[str, Any] | None:
    """The config of a plain BERT encoder; `None` where a folder holds none, a damaged one or that of another model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or not config.keys() >= set(SIZES) or config.get("is_decoder"):
        return None
    if config["num_hidden_layers"] not in range(MOST_LAYERS + 1):
        return None
    is_plain = all(config.get(key) == value for key, value in PLAIN.items())
    return config if is_plain and config.get("position_embedding_type", "absolute") == "absolute" else None


def linear_sizes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Names of the linear modules in a BERT's layers, as `transformers.BertModel` has them → (out, in) features."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    sizes = {f"attention.self.{name}": (hidden, hidden) for name in ("query", "key", "value")}
    sizes |= {"attention.output.dense": (hidden, hidden)}
    sizes |= {"intermediate.dense": (inner, hidden), "output.dense": (hidden, inner)}
    layers = range(config["num_hidden_layers"])
    return {f"encoder.layer.{layer}.{name}": size for layer in layers for name, size in sizes.items()}


def tensor_names(config: Mapping[str, Any]) -> set[str]:
    """Names of all tensors that the forward pass reads."""
    norms = [f"encoder.layer.{layer}.{norm}" for layer in range(config["num_hidden_layers"]) for norm in NORMS]
    modules = ("embeddings.LayerNorm", *norms, *linear_sizes(config))
    tables = {f"embeddings.{kind}_embeddings.weight" for kind in TABLES}
    return tables | {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
