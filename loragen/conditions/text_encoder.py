"""Text to unit vectors by a sentence encoder, with a cache on disk; and where models lie on this machine."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.hub import EMBEDDED_MODEL, quiet_loading, resolve_model, weights_hash
from loragen.bases.plain_bert import Bert
from loragen.errors import TaskError
from loragen.files import atomic_write

BATCH_SIZE = 32


Embed = Callable[[list[str]], Tensor]  # one batch of texts -> (n, d)


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
            ConfigError: there is no such model, or it has no safetensors weights.
        """
        folder = resolve_model(name)
        return cls(name, folder, weights_hash(folder)[:16], cache)

    @cached_property
    def size(self) -> int:
        """Dimension d of the vectors."""
        pooling = _plain_mean_pooling(self.folder)
        return self._embed(["size"]).shape[1] if pooling is None else pooling.size

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as unit vectors, float32 of shape (n, d); what exceeds the encoder's length is cut off.

        Raises:
            TaskError: a text is empty or no valid Unicode.
        """
        assert not isinstance(texts, str)
        if not texts:
            return torch.empty(0, self.size)
        keys = [_key(text) for text in texts]
        known = {} if self.cache is None else _read_vectors(self._cache_file)
        if fresh := self._embed_all({key: text for key, text in zip(keys, texts, strict=True) if key not in known}):
            known |= fresh
            if self.cache is not None:
                _add_vectors(self._cache_file, fresh)
        return torch.stack([known[key] for key in keys])

    @torch.no_grad()
    def _embed_all(self, texts: dict[bytes, str]) -> dict[bytes, Tensor]:
        by_length = sorted(texts, key=lambda key: len(texts[key]))
        vectors: dict[bytes, Tensor] = {}
        for start in range(0, len(by_length), BATCH_SIZE):
            batch = by_length[start : start + BATCH_SIZE]
            embedded = self._embed([texts[key] for key in batch])
            vectors.update(zip(batch, F.normalize(embedded.float(), dim=-1), strict=True))
        return vectors

    @cached_property
    def _embed(self) -> Embed:
        if _is_dual(self.folder):
            return _text_tower(self.folder)
        pooling = _plain_mean_pooling(self.folder)
        return _sentence_transformer(self.folder) if pooling is None else _mean_pooled(self.folder, pooling.max_length)

    @cached_property
    def _cache_file(self) -> Path:
        """Named by weights and configs: the same weights pooled or cut in another way are another encoder."""
        assert self.cache is not None
        digest = hashlib.sha256()
        for file in sorted(self.folder.rglob("*.json")):
            digest.update(file.read_bytes())
        return self.cache / f"embeddings-{self.fingerprint}-{digest.hexdigest()[:8]}.safetensors"


def _key(text: str) -> bytes:
    if not text.strip():
        raise TaskError(f"The text {text!r} is empty; there is nothing to embed.")
    try:
        return hashlib.sha256(text.encode()).digest()
    except UnicodeEncodeError as error:
        raise TaskError(
            f"The text {text!r:.80} is no valid Unicode ({error.reason}); decode it as it was encoded."
        ) from error


@dataclass(frozen=True)
class _MeanPooling:
    max_length: int  # tokens
    size: int


def _plain_mean_pooling(folder: Path) -> _MeanPooling | None:
    """Return the settings of an encoder that is a transformer and the mean over its tokens; None for any other."""
    modules = _read_json(folder / "modules.json") or []
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or modules[0]["path"]:
        return None
    pooling = _read_json(folder / modules[1]["path"] / "config.json") or {}
    modes = [key for key, value in pooling.items() if key.startswith("pooling_mode") and value]
    settings = _read_json(folder / "sentence_bert_config.json") or {}
    prompts = _read_json(folder / "config_sentence_transformers.json") or {}
    is_plain = (
        modes == ["pooling_mode_mean_tokens"]
        and settings.keys() <= {"max_seq_length", "do_lower_case"}
        and not settings.get("do_lower_case")
        and not prompts.get("default_prompt_name")
    )
    if not is_plain or settings.get("max_seq_length") is None:
        return None
    return _MeanPooling(max_length=settings["max_seq_length"], size=pooling["word_embedding_dimension"])


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _mean_pooled(folder: Path, max_length: int) -> Embed:
    """Embed without sentence-transformers, and where the model is a BERT without transformers: imports take seconds."""
    if (bert := Bert.open(folder, max_length)) is not None:
        return bert.mean_pooled

    from transformers import AutoModel, AutoTokenizer

    with quiet_loading():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)

    def embed(texts: list[str]) -> Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return pooled

    return embed


def _is_dual(folder: Path) -> bool:
    """Whether a folder holds a plain CLIP or its like, whose text tower then is the encoder, as in SG-LoRA."""
    config = _read_json(folder / "config.json") or {}
    return (
        not (folder / "modules.json").exists() and {"text_config", "vision_config", "projection_dim"} <= config.keys()
    )


def _text_tower(folder: Path) -> Embed:
    from transformers import AutoModel, AutoTokenizer

    with quiet_loading():
        model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    length = model.config.text_config.max_position_embeddings

    def embed(texts: list[str]) -> Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        features = model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
        return vectors

    return embed


def _sentence_transformer(folder: Path) -> Embed:
    from sentence_transformers import SentenceTransformer

    with quiet_loading():
        model = SentenceTransformer(str(folder), device="cpu")

    def embed(texts: list[str]) -> Tensor:
        vectors: Tensor = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return vectors

    return embed


def _read_vectors(file: Path) -> dict[bytes, Tensor]:
    """Vectors by the SHA-256 of their text; none where the file is missing or damaged, for a cache can be lost."""
    try:
        tensors = safetensors.torch.load(file.read_bytes())
        keys, vectors = tensors["keys"], tensors["vectors"]
    except (OSError, safetensors.SafetensorError, KeyError):
        return {}
    if keys.dtype != torch.uint8 or keys.shape != (len(vectors), 32) or not vectors.isfinite().all():
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
