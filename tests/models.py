"""Tiny random base models: no downloads, and the same weights for the same seed."""

from collections.abc import Callable

import torch
from torch import nn


def tiny_bert(seed: int = 0, layers: int = 2) -> nn.Module:
    """A BERT encoder, as sentence-transformers models are: (batch, length) token ids to (batch, length, 16)."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    return _seeded(seed, lambda: BertModel(config))


def tiny_llama(seed: int = 0, layers: int = 2) -> nn.Module:
    """A Llama language model with grouped keys and values: (batch, length) token ids to (batch, length, 64) logits."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _seeded(seed, lambda: LlamaForCausalLM(config))


def tiny_gpt2(seed: int = 0, layers: int = 2) -> nn.Module:
    """A GPT-2 language model, whose weights are (in, out): (batch, length) token ids to (batch, length, 64) logits."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=64,
        n_embd=16,
        n_layer=layers,
        n_head=2,
        n_positions=64,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _seeded(seed, lambda: GPT2LMHeadModel(config))


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()
