"""Models that embed texts, from their folders: sentence-transformers and the text towers of CLIP and its like.

Encoders that are a transformer and the mean over its tokens, as MiniLM is, are run without sentence-transformers, and
plain BERTs without transformers: importing either takes seconds.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from loragen.bases.hub import is_dual_encoder
from loragen.bases.plain_bert import Bert
from loragen.bases.pretrained import load_pretrained, load_tokenizer
from loragen.bases.sentence_modules import load_sentence_transformer
from loragen.conditions.encoder_settings import plain_mean_pooling

Embed = Callable[[list[str]], Tensor]
"""One batch of texts → (n, d)."""


def load_embedder(folder: Path) -> Embed:
    """The model of a folder, loaded."""
    if is_dual_encoder(folder):
        return _text_tower(folder)
    pooling = plain_mean_pooling(folder)
    return _sentence_transformer(folder) if pooling is None else _mean_pooled(folder, pooling.max_length)


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
