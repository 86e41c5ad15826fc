"""The text encoder that is installed with loragen, without torch: `loragen.conditions.text_encoder` for default use."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from loragen.bases.hub import local_model, weights_hash
from loragen.bases.known import EMBEDDED_NAMES
from loragen.conditions.encoder_settings import (
    cache_name,
    count_tokens,
    key_of,
    plain_mean_pooling,
    stated_max_tokens,
    uncut_tokenizer,
)
from loragen.lean.arrays import Array
from loragen.lean.bert import LeanBert
from loragen.lean.errors import require


@dataclass(frozen=True)
class LeanEncoder:
    """A sentence encoder whose weights are read when a text is embedded."""

    name: str
    folder: Path
    fingerprint: str
    """First 16 hexadecimal digits of the hash of its weights."""

    @classmethod
    def load(cls, name: str) -> Self:
        """Find the embedded encoder.

        Raises:
            NotLeanError: the name is another's.
        """
        require(name in EMBEDDED_NAMES, "the encoder is not the embedded one")
        folder = local_model(name, option="--encoder")
        assert folder is not None
        return cls(name, folder, weights_hash(folder)[:16])

    @cached_property
    def _bert(self) -> LeanBert:
        pooling = plain_mean_pooling(self.folder)
        require(pooling is not None, "the encoder pools in another way")
        return LeanBert.open(self.folder)

    def encode(self, texts: Sequence[str]) -> Array:
        """Embed texts as unit vectors, (n, d).

        Raises:
            NotLeanError: one has more tokens than are read.
        """
        tokenizer = uncut_tokenizer(self.folder)
        rows = [tokenizer.encode(text).ids for text in texts]
        require(max(map(len, rows)) <= (self.max_tokens or 0), "a text is long")
        pooled = self._bert.mean_pooled(rows).astype(np.float64)
        units: Array = (pooled / np.linalg.norm(pooled, axis=1, keepdims=True)).astype(np.float32)
        return units

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text, uncut, with those of its beginning and end."""
        return count_tokens(self.folder, texts)

    @property
    def max_tokens(self) -> int | None:
        """Tokens of a text that are read."""
        return stated_max_tokens(self.folder)

    @cached_property
    def cache_name(self) -> str:
        """Name of the file that a zoo keeps embeddings of this encoder in."""
        return cache_name(key_of(self.folder, self.fingerprint))
