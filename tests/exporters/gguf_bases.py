"""Tiny random bases of families that llama.cpp runs, adapters of all their sites, and a GGUF file of a tiny Llama."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.bases.architecture import Architecture

_PLAIN = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
_LLAMA = _PLAIN | {"num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 64}
_LLAMA |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64}
_GPT |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


@dataclass(frozen=True)
class Kind:
    """A model that llama.cpp runs."""

    model: str
    """Its class in transformers."""
    sizes: Mapping[str, Any]
    arch: str
    """llama.cpp's name of its architecture."""
    tensors: Mapping[str, str]
    """Some sites of its second layer, or outside of the layers → their tensors."""
    task_type: str = "CAUSAL_LM"
    left_out: tuple[str, ...] = field(default=("lm_head",))
    """Last names of linear modules that have no tensor there."""


_OF_LLAMA = {
    "model.layers.1.self_attn.q_proj": "blk.1.attn_q.weight",
    "model.layers.1.mlp.down_proj": "blk.1.ffn_down.weight",
}
KINDS = {
    "llama": Kind("LlamaForCausalLM", _LLAMA, "llama", {**_OF_LLAMA, "lm_head": "output.weight"}, left_out=()),
    "mistral": Kind("MistralForCausalLM", _LLAMA, "llama", _OF_LLAMA, left_out=()),
    "qwen2": Kind("Qwen2ForCausalLM", _LLAMA, "qwen2", _OF_LLAMA, left_out=()),
    "qwen3": Kind("Qwen3ForCausalLM", _LLAMA | {"head_dim": 4}, "qwen3", _OF_LLAMA, left_out=()),
    "gemma": Kind("GemmaForCausalLM", _LLAMA | {"head_dim": 4}, "gemma", _OF_LLAMA),
    "gemma2": Kind("Gemma2ForCausalLM", _LLAMA | {"head_dim": 4}, "gemma2", _OF_LLAMA),
    "phi3": Kind(
        "Phi3ForCausalLM", _LLAMA, "phi3", {"model.layers.1.self_attn.qkv_proj": "blk.1.attn_qkv.weight"}, left_out=()
    ),
    "gpt2": Kind("GPT2LMHeadModel", _GPT, "gpt2", {"transformer.h.1.attn.c_attn": "blk.1.attn_qkv.weight"}),
    "gpt_neox": Kind(
        "GPTNeoXForCausalLM",
        _PLAIN | {"intermediate_size": 24, "max_position_embeddings": 64},
        "gptneox",
        {"gpt_neox.layers.1.attention.query_key_value": "blk.1.attn_qkv.weight"},
        left_out=(),
    ),
    "bloom": Kind("BloomForCausalLM", {"vocab_size": 64, "hidden_size": 16, "n_layer": 2, "n_head": 4}, "bloom", {}),
    "falcon": Kind(
        "FalconForCausalLM",
        _PLAIN | {"new_decoder_architecture": True, "num_kv_heads": 2},
        "falcon",
        {"transformer.h.1.self_attention.query_key_value": "blk.1.attn_qkv.weight"},
    ),
    "bert": Kind(
        "BertModel",
        _PLAIN | {"intermediate_size": 24, "max_position_embeddings": 64},
        "bert",
        {"encoder.layer.1.attention.output.dense": "blk.1.attn_output.weight"},
        task_type="FEATURE_EXTRACTION",
        left_out=("pooler.dense",),
    ),
    "t5": Kind(
        "T5ForConditionalGeneration",
        {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4},
        "t5",
        {"decoder.block.1.layer.1.EncDecAttention.k": "dec.blk.1.cross_attn_k.weight"},
        task_type="SEQ_2_SEQ_LM",
    ),
}


def write_tiny(folder: Path, name: str, **changes: Any) -> Path:
    """Write a tiny random model of a kind."""
    import transformers

    kind = KINDS[name]
    model_class = getattr(transformers, kind.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model_class(model_class.config_class(**kind.sizes, **changes)).save_pretrained(folder)
    return folder


def adapter_of(base: Path, name: str, *, sites: tuple[str, ...] | None = None, **options: Any) -> Lora:
    """A random adapter with rsLoRA and patterns, of all sites that llama.cpp has tensors for, or of some."""
    kind, rng = KINDS[name], torch.Generator().manual_seed(3)
    architecture = Architecture.of(str(base), kind.task_type, is_local=True)
    chosen = sites or tuple(site for site in architecture.linear if not site.endswith(kind.left_out or ("nothing",)))
    settings = {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": chosen,
        "base_model_name_or_path": str(base),
        "task_type": kind.task_type,
        "use_rslora": True,
        "fan_in_fan_out": architecture.stores_transposed(chosen),
        "rank_pattern": {r".*1\..*": 2},
        "alpha_pattern": {r".*(v_proj|value|c_fc|dense|o)": 11.0, r".*0\..*": 2.5},
    }
    known = LoraSettings(**(settings | options))
    a, b = {}, {}
    for site in chosen:
        linear, rank = architecture.linear[site], known.rank(site)
        a[site] = torch.randn(rank, linear.in_features, generator=rng)
        b[site] = torch.randn(linear.out_features, rank, generator=rng)
    return Lora(known, a, b)


def tensors_of(file: Path) -> dict[str, Any]:
    """The tensors of a GGUF file by name."""
    import gguf

    return {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}


def pair(tensors: Mapping[str, Any], name: str) -> Tensor:
    """B · A of a tensor, as llama.cpp multiplies them where no alpha is stated."""
    a, b = (torch.from_numpy(tensors[f"{name}.lora_{letter}"].data.copy()).float() for letter in "ab")
    return b @ a


def write_llama_gguf(file: Path, base: Path, *, kind: str = "Q8_0", with_head: bool = True) -> Path:
    """A GGUF file of a tiny Llama as llama.cpp's converter lays it out: quantised matrices, metadata of every type."""
    import gguf
    from safetensors.torch import load_file

    weights = load_file(base / "model.safetensors")
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("model")
    writer.add_string("general.name", "tiny — Llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_bool("tokenizer.ggml.add_bos_token", False)
    writer.add_array("tokenizer.ggml.tokens", [f"▁{i}" for i in range(64)])
    writer.add_array("tokenizer.ggml.scores", [0.5 * i for i in range(64)])
    writer.add_string("tokenizer.chat_template", "{{ messages }}\n")
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, weight in weights.items():
        place = table.get_name(name, try_suffixes=(".weight",))
        if place == "output.weight" and not with_head:
            continue
        values = (
            in_pairs(weight, 4 if "q_proj" in name else 2)
            if name.endswith(("q_proj.weight", "k_proj.weight"))
            else weight
        )
        wanted = gguf.GGMLQuantizationType[kind] if values.ndim == 2 and values.shape[1] % 32 == 0 else None
        if wanted is None:
            writer.add_tensor(place, values.float().numpy().astype(np.float32))
        else:
            writer.add_tensor(place, gguf.quants.quantize(values.float().numpy(), wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def in_pairs(weight: Tensor, heads: int) -> Tensor:
    """Rows of queries or keys as llama.cpp keeps those of a Llama: row i of a half beside row i of the other half."""
    size = len(weight) // heads
    order = [head * size + half * (size // 2) + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return weight[order]
