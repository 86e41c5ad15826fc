"""Tiny random base models and tasks: no downloads, and the same values for the same seed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from loragen.tasks.task_set import Task, TaskSource


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


def write_tiny_encoder(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write `tiny_bert` as a sentence-transformers folder: mean pooling, unit norm, and a tokenizer of its 64 ids."""
    from transformers import BertTokenizerFast

    folder.mkdir(parents=True)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary += [".", ",", "soup", "bread", "cold", "warm", "tea"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    tiny_bert(seed).save_pretrained(folder, **changes)
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate([("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")])
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def word_task(
    folder: Path, name: str = "drinks", *, words: tuple[str, str] = ("soup", "tea"), train: int = 200
) -> Task:
    """A task that `write_tiny_encoder(..., seed=1)` can learn: which of two words stands among random letters?"""
    folder.mkdir(parents=True, exist_ok=True)
    rng = torch.Generator().manual_seed(sum(name.encode()))
    for part, size in (("train", train), ("test", 40)):
        rows = []
        for i in range(size):
            letters = ["abcdefghij"[j] for j in torch.randint(10, (2 + i % 7,), generator=rng).tolist()]
            letters[int(torch.randint(len(letters), (), generator=rng))] = words[i % 2]
            rows.append(json.dumps({"text": " ".join(letters), "label": words[i % 2]}))
        (folder / f"{name}.{part}.jsonl").write_text("\n".join(rows))
    source = TaskSource(train=str(folder / f"{name}.train.jsonl"), test=str(folder / f"{name}.test.jsonl"))
    return Task(id=name, description=f"Is it {words[0]} or {words[1]}?", labels=words, source=source, licence="CC0")


def _seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()
