"""Models that embed texts, from their folders: sentence-transformers and the text towers of CLIP and its like.

Encoders that are a transformer and the mean over its tokens, as MiniLM is, are run without sentence-transformers, and
plain BERTs without transformers: importing either takes seconds.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from loragen.bases.hub import is_dual_encoder
from loragen.bases.plain_bert import TOKENIZER, Bert
from loragen.bases.pretrained import load_pretrained, load_tokenizer
from loragen.bases.sentence_modules import load_sentence_transformer, modules_of

Embed = Callable[[list[str]], Tensor]
"""One batch of texts → (n, d)."""


def load_embedder(folder: Path) -> Embed:
    """The model of a folder, loaded."""
    if is_dual_encoder(folder):
        return _text_tower(folder)
    pooling = _plain_mean_pooling(folder)
    return _sentence_transformer(folder) if pooling is None else _mean_pooled(folder, pooling.max_length)


def stated_size(folder: Path) -> int | None:
    """Dimension of the vectors, where the settings beside its weights state it."""
    pooling = _plain_mean_pooling(folder)
    return None if pooling is None else pooling.size


def stated_max_tokens(folder: Path) -> int | None:
    """Tokens of a text that the model reads, where the settings beside its weights state it."""
    if is_dual_encoder(folder):
        most = _read_json(folder / "config.json")["text_config"].get("max_position_embeddings")
    else:
        most = (_read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    return most if isinstance(most, int) else None


def count_tokens(folder: Path, texts: Sequence[str]) -> list[int] | None:
    """Tokens of each text, uncut, with those of its beginning and end; `None` without a ``tokenizer.json``."""
    file = folder / TOKENIZER
    if not file.is_file():
        return None
    tokenizer = _uncut(file, file.stat().st_mtime_ns)
    prompts = _read_json(folder / "config_sentence_transformers.json") or {}
    prompt = prompts.get("prompts", {}).get(prompts.get("default_prompt_name"), "")
    return [len(tokenizer.encode(prompt + text).ids) for text in texts]


@lru_cache(maxsize=2)
def _uncut(file: Path, _written: int) -> Any:
    """The tokenizer of a file that was last written then, which cuts nothing; reading one takes 50 ms."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True)
class _MeanPooling:
    max_length: int
    """In tokens."""
    size: int


def _plain_mean_pooling(folder: Path) -> _MeanPooling | None:
    """Settings of an encoder that is a transformer and the mean over its tokens; None for any other."""
    modules = modules_of(folder)
    kinds = [module.kind for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    if modules[0].folder != folder:
        return None
    pooling = modules[1].settings()
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
    if (bert := Bert.open(folder, max_length)) is not None:
        return bert.mean_pooled

    model, tokenizer = _loaded(folder)

    def embed(texts: list[str]) -> Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled: Tensor = (hidden * mask).sum(dim=1) / mask.sum(dim=1)
        return pooled

    return embed


def _loaded(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer of a folder."""
    loaded = load_pretrained(str(folder), folder, "AutoModel", option="--encoder")
    loaded.refuse_made_up(str(folder), option="--encoder")
    return loaded.model, load_tokenizer(str(folder), folder, option="--encoder")


def _text_tower(folder: Path) -> Embed:
    model, tokenizer = _loaded(folder)
    length = model.config.text_config.max_position_embeddings

    def embed(texts: list[str]) -> Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        features = model.get_text_features(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        vectors: Tensor = features if isinstance(features, Tensor) else features.pooler_output
        return vectors

    return embed


def _sentence_transformer(folder: Path) -> Embed:
    model = load_sentence_transformer(folder)

    def embed(texts: list[str]) -> Tensor:
        vectors: Tensor = model.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return vectors

    return embed
