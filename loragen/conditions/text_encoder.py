"""Text to unit vectors by a sentence encoder, with a cache on disk."""

import hashlib
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor

from loragen.bases.hub import resolve_model, weights_hash
from loragen.bases.known import EMBEDDED_MODEL
from loragen.bases.pretrained import MODEL_CONFIG, check_folder, loading_errors
from loragen.conditions.embedders import Embed, load_embedder
from loragen.conditions.encoder_settings import cache_name, count_tokens, key_of, stated_max_tokens, stated_size
from loragen.config import LONGEST_STRING
from loragen.errors import ConfigError, TaskError, shown
from loragen.files import atomic_write
from loragen.paths import read_capped
from loragen.training.threads import one_thread

BATCH_SIZE = 32
LARGEST_CACHE = 2**30
"""Bytes of a cache that is read."""
MOST_RECENT = 1_000
"""Texts whose vectors are kept in memory."""


def default_cache() -> Path:
    """Folder for embeddings on this machine: ``$XDG_CACHE_HOME/loragen``, by default ``~/.cache/loragen``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loragen"


@dataclass(frozen=True)
class TextEncoder:
    """A sentence encoder whose weights are loaded when a text comes that the cache does not know.

    The cache is one file per encoder that is rewritten whole: it suits descriptions and label names, not corpora.
    """

    name: str
    folder: Path
    fingerprint: str
    """First 16 hexadecimal digits of :func:`weights_hash`."""
    cache: Path | None = None

    @classmethod
    def load(cls, name: str = f"sentence-transformers/{EMBEDDED_MODEL}", cache: Path | None = None) -> "TextEncoder":
        """Find an encoder by a name that :func:`resolve_model` knows; ``cache`` is a folder, ``None`` keeps nothing.

        Raises:
            ConfigError: there is no such model, it is damaged or quantised, or it has no safetensors weights.
        """
        folder = resolve_model(name, option="--encoder")
        if (folder / MODEL_CONFIG).is_file() or not (folder / "modules.json").is_file():  # else in folders of its own
            check_folder(name, folder, option="--encoder")
        return cls(name, folder, weights_hash(folder)[:16], cache)

    @cached_property
    def size(self) -> int:
        """Dimension d of the vectors."""
        size = self.stated_size
        return self._embed(["size"]).shape[1] if size is None else size

    @property
    def stated_size(self) -> int | None:
        """The same, where the settings beside the weights state it."""
        with self._reading():
            return stated_size(self.folder)

    @cached_property
    def max_tokens(self) -> int | None:
        """Tokens of a text that are read; `None` where the settings beside the weights do not state it."""
        with self._reading():
            return stated_max_tokens(self.folder)

    def count_tokens(self, texts: Sequence[str]) -> list[int] | None:
        """Tokens of each text, uncut, with those of its beginning and end; `None` without a ``tokenizer.json``."""
        with self._reading():
            return count_tokens(self.folder, texts)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as unit vectors, float32 of shape (n, d); what exceeds the encoder's length is cut off.

        Raises:
            TaskError: a text is empty or no valid Unicode.
        """
        assert not isinstance(texts, str)
        if not texts:
            return torch.empty(0, self.size)
        keys = [_key(text) for text in texts]
        if self.cache is None:
            known = {key: vector for key in keys if (vector := self._recent.get(key)) is not None}
        else:
            known = _read_vectors(self._cache_file, self.stated_size)
        if fresh := self._embed_all({key: text for key, text in zip(keys, texts, strict=True) if key not in known}):
            known |= fresh
            self._keep(fresh)
        return torch.stack([known[key] for key in keys])

    def _keep(self, fresh: dict[bytes, Tensor]) -> None:
        """Keep vectors for the next time: in the cache or, where there is none, some in memory."""
        if self.cache is not None:
            _add_vectors(self._cache_file, fresh)
            return
        if len(self._recent) + len(fresh) > MOST_RECENT:
            self._recent.clear()
        self._recent.update(fresh)

    @cached_property
    def _recent(self) -> dict[bytes, Tensor]:
        """Vectors of texts that were embedded lately: one generation asks for the same few again and again."""
        return {}

    @torch.no_grad()
    def _embed_all(self, texts: dict[bytes, str]) -> dict[bytes, Tensor]:
        by_length = sorted(texts, key=lambda key: len(texts[key]))
        vectors: dict[bytes, Tensor] = {}
        for start in range(0, len(by_length), BATCH_SIZE):
            batch = by_length[start : start + BATCH_SIZE]
            with one_thread():
                embedded = self._embed([texts[key] for key in batch])
            vectors.update(zip(batch, F.normalize(embedded.float(), dim=-1), strict=True))
        return vectors

    @cached_property
    def _embed(self) -> Embed:
        with self._reading():
            return load_embedder(self.folder)

    def _reading(self) -> AbstractContextManager[None]:
        """Turn the faults of damaged files, which other libraries read, into errors that name the encoder."""
        return loading_errors(self.name, "as a text encoder", option="--encoder")

    @cached_property
    def key(self) -> str:
        """A name by weights and configs."""
        return key_of(self.folder, self.fingerprint)

    @property
    def _cache_file(self) -> Path:
        assert self.cache is not None
        return self.cache / cache_name(self.key)


def _key(text: str) -> bytes:
    if not any(character.isprintable() and not character.isspace() for character in text[:LONGEST_STRING]):
        raise TaskError(f"The text {shown(text)} is empty; there is nothing to embed.")
    if len(text) > LONGEST_STRING:
        raise TaskError(
            f"A text has {len(text):,} characters; descriptions have at most {LONGEST_STRING:,}. Say it shorter."
        )
    try:
        return hashlib.sha256(text.encode()).digest()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"The text {text!r:.80} is no valid Unicode ({error.reason}); decode it as it was encoded."
        ) from error


def _read_vectors(file: Path, size: int | None = None) -> dict[bytes, Tensor]:
    """Vectors (d,) by the SHA-256 of their text; none where the file is missing or damaged, for a cache can be lost.

    ``size`` is d, where it is known.
    """
    try:
        tensors = safetensors.torch.load(read_capped(file, LARGEST_CACHE, kind="cache"))
        keys, vectors = tensors["keys"], tensors["vectors"]
    except (ConfigError, SafetensorError, KeyError, ValueError):
        return {}
    if vectors.ndim != 2 or vectors.dtype != torch.float32 or size not in (None, vectors.shape[1]):
        return {}
    if keys.dtype != torch.uint8 or keys.shape != (len(vectors), 32):
        return {}
    if not ((vectors.square().sum(1) - 1).abs() < 1e-3).all():  # no unit vectors, or no numbers
        return {}
    return {bytes(key): vector for key, vector in zip(keys.tolist(), vectors, strict=True)}


def _add_vectors(file: Path, fresh: dict[bytes, Tensor]) -> None:
    vectors = _read_vectors(file) | fresh  # read again: another process may have written meanwhile
    tensors = {
        "keys": torch.tensor([list(key) for key in vectors], dtype=torch.uint8),
        "vectors": torch.stack(list(vectors.values())),
    }
    with suppress(OSError):  # a read-only or full disk costs time, not the result
        atomic_write(file, safetensors.torch.save(tensors))
