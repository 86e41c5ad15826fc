"""What the files beside a text encoder's weights state: its pooling, its sizes, and the tokens of texts."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from loragen.bases.bert_config import TOKENIZER
from loragen.bases.hub import is_dual_encoder
from loragen.bases.sentence_modules import modules_of


def key_of(folder: Path, fingerprint: str) -> str:
    """A name by weights and configs: the same weights pooled or cut in another way are another encoder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.json")):
        digest.update(file.read_bytes())
    return f"{fingerprint}-{digest.hexdigest()[:8]}"


def cache_name(key: str) -> str:
    """Name of the file that embeddings by an encoder are kept in; ``key`` is that of `key_of`."""
    return f"embeddings-{key}.safetensors"


def stated_size(folder: Path) -> int | None:
    """Dimension of the vectors, where the settings beside its weights state it."""
    pooling = plain_mean_pooling(folder)
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
    if (tokenizer := uncut_tokenizer(folder)) is None:
        return None
    prompts = _read_json(folder / "config_sentence_transformers.json") or {}
    prompt = prompts.get("prompts", {}).get(prompts.get("default_prompt_name"), "")
    return [len(tokenizer.encode(prompt + text).ids) for text in texts]


def uncut_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder, which cuts and pads nothing; `None` without a ``tokenizer.json``."""
    file = folder / TOKENIZER
    return _uncut(file, file.stat().st_mtime_ns) if file.is_file() else None


@lru_cache(maxsize=2)
def _uncut(file: Path, _written: int) -> Any:
    """The tokenizer of a file that was last written then, which cuts nothing; reading one takes 50 ms."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True)
class MeanPooling:
    """Settings of an encoder that is a transformer and the mean over its tokens."""

    max_length: int
    """In tokens."""
    size: int


def plain_mean_pooling(folder: Path) -> MeanPooling | None:
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
    return MeanPooling(max_length=settings["max_seq_length"], size=pooling["word_embedding_dimension"])


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
