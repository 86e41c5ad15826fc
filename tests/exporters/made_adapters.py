"""Random adapters of tiny bases, and the configs of these bases on disk."""

from pathlib import Path

import torch
from models import tiny_gpt2, tiny_llama

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings

QUERY, KEY, DOWN = (f"model.layers.{{}}.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))
SHAPES = {"q_proj": (16, 16), "k_proj": (8, 16), "down_proj": (16, 24), "lm_head": (64, 16), "c_attn": (48, 16)}


def make(*sites, r=16, ranks=None, shapes=None, **options):
    """An adapter at some sites of the tiny Llama or GPT-2; ``ranks`` and ``shapes`` by site."""
    rng = torch.Generator().manual_seed(0)
    ranks = {site: (ranks or {}).get(site, r) for site in sites}
    shapes = {site: (shapes or {}).get(site) or SHAPES.get(site.rpartition(".")[2], (16, 16)) for site in sites}
    settings = LoraSettings(
        r=options.pop("told_r", r),
        lora_alpha=options.pop("lora_alpha", r),
        target_modules=options.pop("target_modules", sites),
        base_model_name_or_path="tiny",
        rank_pattern=options.pop("rank_pattern", {site: rank for site, rank in ranks.items() if rank != r}),
        **options,
    )
    return Lora(
        settings,
        {site: torch.randn(ranks[site], shapes[site][1], generator=rng) for site in sites},
        {site: torch.randn(shapes[site][0], ranks[site], generator=rng) for site in sites},
    )


def everywhere(*names):
    return [name.format(layer) for name in names for layer in (0, 1)]


def write_configs(root: Path) -> Path:
    """Class → folder of a config, and of nothing else."""
    from transformers import BertConfig, ModernBertConfig, MPNetConfig, Qwen3Config, T5Config

    tiny = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    configs = {
        "LlamaForCausalLM": tiny_llama().config,
        "GPT2LMHeadModel": tiny_gpt2().config,
        "BertModel": BertConfig(**tiny),
        "ModernBertModel": ModernBertConfig(**tiny, **special, cls_token_id=1, sep_token_id=2),
        "MPNetModel": MPNetConfig(**tiny),
        "Qwen3ForCausalLM": Qwen3Config(**tiny, num_key_value_heads=2, head_dim=4),
        "T5ForConditionalGeneration": T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4),
    }
    for name, config in configs.items():
        config.architectures = [name]
        config.save_pretrained(root / name)
    return root
