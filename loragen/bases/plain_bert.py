"""BERT's forward pass for embedding a few texts, in torch alone: importing transformers for it takes seconds.

Devlin et al. 2019, as in `transformers.BertModel`, whose weights, configs and tokenizers it reads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.bert_config import TABLES, TOKENIZER, WEIGHTS, read_config, tensor_names


@dataclass(frozen=True, eq=False)
class Bert:
    """An encoder and its tokenizer, in float32 on the CPU."""

    tensors: Mapping[str, Tensor]
    """By their names in the checkpoint."""
    tokenizer: Any
    """Of the library tokenizers; pads and truncates."""
    heads: int
    layers: int
    eps: float
    """Of layer normalisation."""

    @classmethod
    def open(cls, folder: Path, max_length: int) -> Self | None:
        """Open a checkpoint whose texts are cut at ``max_length`` tokens; `None` where it is no plain BERT."""
        config, weights, tokenizer_file = read_config(folder), folder / WEIGHTS, folder / TOKENIZER
        if config is None or not weights.is_file() or not tokenizer_file.is_file():
            return None
        tensors = safetensors.torch.load_file(weights)
        if not tensors.keys() >= tensor_names(config):  # another prefix before them, or those of the first checkpoints
            return None
        if tensors["embeddings.word_embeddings.weight"].shape[1:] != (config["hidden_size"],):  # not its config
            return None
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(tokenizer_file))
        tokenizer.enable_truncation(max_length)
        tokenizer.enable_padding(pad_id=config.get("pad_token_id") or 0)
        return cls(
            {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()},
            tokenizer,
            heads=config["num_attention_heads"],
            layers=config["num_hidden_layers"],
            eps=config["layer_norm_eps"],
        )

    @torch.no_grad()
    def mean_pooled(self, texts: Sequence[str]) -> Tensor:
        """Mean of the last hidden states over the tokens of each text, (n, hidden)."""
        rows = self.tokenizer.encode_batch(list(texts))
        mask = torch.tensor([row.attention_mask for row in rows])
        hidden = self.hidden(torch.tensor([row.ids for row in rows]), mask.bool())
        weights = mask.unsqueeze(-1)
        pooled: Tensor = (hidden * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled

    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states (n, length, hidden) of token ids (n, length), attending where ``mask`` is true."""
        words, positions, types = (self.tensors[f"embeddings.{kind}_embeddings.weight"] for kind in TABLES)
        x = self._norm(words[ids] + positions[: ids.shape[1]] + types[0], "embeddings.LayerNorm")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            attended = self._linear(self._attention(x, mask, layer), f"{layer}.attention.output.dense")
            x = self._norm(attended + x, f"{layer}.attention.output.LayerNorm")
            inner = F.gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(self._linear(inner, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
        return x

    def _attention(self, x: Tensor, mask: Tensor, layer: str) -> Tensor:
        query, key, value = (
            self._linear(x, f"{layer}.attention.self.{name}").view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        return attended.transpose(1, 2).flatten(-2)

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.eps)
