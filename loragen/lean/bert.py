"""BERT's forward pass in numpy, for embedding a few texts: `loragen.bases.plain_bert` without torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from loragen.bases.bert_config import TABLES, WEIGHTS, read_config, tensor_names
from loragen.lean.arrays import Array, read_arrays
from loragen.lean.errors import require

BATCH = 32
"""Texts that are embedded at once."""
_REACH, _STEPS = 6, 64
"""The table of GELU reaches from -6 to 6, in so many steps a unit."""


@dataclass(frozen=True, eq=False)
class LeanBert:
    """An encoder; its weights are read from the disk as they are needed."""

    arrays: Mapping[str, Array]
    """By their names in the checkpoint."""
    heads: int
    layers: int
    eps: float
    """Of layer normalisation."""

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a checkpoint.

        Raises:
            NotLeanError: it is no plain BERT in float32.
        """
        config = read_config(folder)
        require(config is not None, "the encoder is no plain BERT")
        assert config is not None
        arrays, _ = read_arrays(folder / WEIGHTS)
        require(arrays.keys() >= tensor_names(config), "the encoder has tensors of other names")
        require(all(arrays[name].dtype == np.float32 for name in tensor_names(config)), "its weights are no float32")
        width = arrays["embeddings.word_embeddings.weight"].shape[1:]
        require(width == (config["hidden_size"],), "its weights do not fit its config")
        heads, layers, eps = (config[key] for key in ("num_attention_heads", "num_hidden_layers", "layer_norm_eps"))
        return cls(arrays, heads=heads, layers=layers, eps=eps)

    def mean_pooled(self, rows: Sequence[Sequence[int]]) -> Array:
        """Mean of the last hidden states over the tokens of each text, (n, hidden), from the texts' token ids.

        Texts of one length go through together, so that nothing is padded and nothing masked.
        """
        by_length: dict[int, list[int]] = {}
        for place, ids in enumerate(rows):
            by_length.setdefault(len(ids), []).append(place)
        width = self.arrays["embeddings.word_embeddings.weight"].shape[1]
        pooled = np.empty((len(rows), width), dtype=np.float32)
        for places in by_length.values():
            for start in range(0, len(places), BATCH):
                chosen = places[start : start + BATCH]
                pooled[chosen] = self.hidden(np.array([rows[place] for place in chosen])).mean(1)
        return pooled

    def hidden(self, ids: NDArray[np.int64]) -> Array:
        """Last hidden states (n, length, hidden) of token ids (n, length)."""
        words, positions, types = (self.arrays[f"embeddings.{kind}_embeddings.weight"] for kind in TABLES)
        x = self._norm(words[ids] + positions[: ids.shape[1]] + types[0], "embeddings.LayerNorm")
        for number in range(self.layers):
            layer = f"encoder.layer.{number}"
            attended = self._linear(self._attention(x, layer), f"{layer}.attention.output.dense")
            x = self._norm(attended + x, f"{layer}.attention.output.LayerNorm")
            inner = gelu(self._linear(x, f"{layer}.intermediate.dense"))
            x = self._norm(self._linear(inner, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
        return x

    def _attention(self, x: Array, layer: str) -> Array:
        n, length, width = x.shape
        query, key, value = (
            self._linear(x, f"{layer}.attention.self.{name}").reshape(n, length, self.heads, -1).transpose(0, 2, 1, 3)
            for name in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(math.sqrt(width // self.heads))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        attended: Array = (weights @ value).transpose(0, 2, 1, 3).reshape(n, length, width)
        return attended

    def _linear(self, x: Array, name: str) -> Array:
        weight, bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]
        flat: Array = x.reshape(-1, x.shape[-1]) @ weight.T + bias
        return flat.reshape(*x.shape[:-1], -1)

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt(np.square(centred).mean(-1, keepdims=True) + np.float32(self.eps))
        normed: Array = centred / deviation * self.arrays[f"{name}.weight"] + self.arrays[f"{name}.bias"]
        return normed


def gelu(x: Array) -> Array:
    """X Φ(x), to 1e-7, where numpy has no erf.

    Cubic Hermite interpolation in a table of values and slopes, h⁴/384 · max|f⁗| < 3e-10 off within ±6; beyond, x or 0.
    """
    values, slopes = _table()
    place = (np.clip(x, -_REACH, _REACH).astype(np.float64) + _REACH) * _STEPS
    low = np.minimum(place.astype(np.int64), 2 * _REACH * _STEPS - 1)
    t = place - low
    u = 1 - t
    found = (1 + 2 * t) * u * u * values[low] + t * u * u * slopes[low]
    found += t * t * (3 - 2 * t) * values[low + 1] - t * t * u * slopes[low + 1]
    return (found + np.maximum(x - _REACH, 0.0)).astype(np.float32)


@lru_cache(maxsize=1)
def _table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X Φ(x) at the points of the table, and its slopes times the step."""
    points = [place / _STEPS - _REACH for place in range(2 * _REACH * _STEPS + 1)]
    below = [0.5 * math.erfc(-x / math.sqrt(2)) for x in points]
    density = [math.exp(-x * x / 2) / math.sqrt(2 * math.pi) for x in points]
    values = [x * share for x, share in zip(points, below, strict=True)]
    slopes = [(share + x * dense) / _STEPS for x, share, dense in zip(points, below, density, strict=True)]
    return np.array(values), np.array(slopes)
