"""A folder that `SentenceTransformer(folder)` loads: the adapter, and what its base has beside the weights."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.bases.hub import resolve_model
from loragen.bases.sentence_modules import modules_of
from loragen.errors import AdapterError, ConfigError
from loragen.exporters.engine_folders import base_name
from loragen.exporters.export import Exported, Request
from loragen.files import atomic_folder

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "chat_template.jinja"),
)
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
PLAIN_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
"""Of an encoder that comes without modules of its own: the mean of the hidden states, of length 1."""


def write_sentence_transformer(request: Request) -> Exported:
    """A folder that `SentenceTransformer(folder)` loads: adapter, tokenizer, pooling and what else the base has.

    Raises:
        AdapterError: the adapter is not of a text encoder.
        ConfigError: the base is not at hand, or something stands where it is to be written.
    """
    adapter, name = _in_float32(request.adapter), base_name(request)
    if adapter.settings.task_type not in (None, "FEATURE_EXTRACTION"):
        raise AdapterError(
            f"The adapter is of the task type {adapter.settings.task_type}; a sentence transformer wants one of a text "
            "encoder (FEATURE_EXTRACTION)."
        )
    source = resolve_model(request.base, may_fetch=not request.is_local)
    plain, _, revision = name.partition("@")
    settings = replace(adapter.settings, base_model_name_or_path=plain, revision=revision or None)
    with atomic_folder(request.out, replace=request.force) as folder:
        for file, content in replace(adapter, settings=settings).files().items():
            (folder / file).write_bytes(content)
        for path, place in _beside_weights(source):
            target = folder / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        if not (folder / SENTENCE_FILES[0]).exists():
            _add_plain_modules(folder, source)
    use = f'SentenceTransformer("{request.out}")'
    return Exported(request.out, "sentence-transformers", len(adapter.sites), request.dtype, use)


def _in_float32(adapter: Lora) -> Lora:
    """The same adapter with factors in float32, which encoders compute in."""
    lora_a, lora_b = (
        {site: factor.float() for site, factor in part.items()} for part in (adapter.lora_A, adapter.lora_B)
    )
    return Lora(adapter.settings, lora_a, lora_b)


def _beside_weights(source: Path) -> Iterator[tuple[Path, str]]:
    """Files of the base that a sentence transformer wants beside the adapter, with their places."""
    for name in (*TOKENIZER_FILES, *SENTENCE_FILES):
        if (source / name).is_file():
            yield source / name, name
    for module in modules_of(source) if (source / SENTENCE_FILES[0]).is_file() else ():
        if module.folder != source and module.folder.is_dir():
            for path in sorted(module.folder.iterdir()):
                if path.is_file():
                    yield path, path.relative_to(source).as_posix()


def _add_plain_modules(folder: Path, source: Path) -> None:
    try:
        size = json.loads((source / "config.json").read_text(encoding="utf-8"))["hidden_size"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"The config of the base names no hidden_size ({error!r:.80}); it is no text encoder."
        ) from error
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": size, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling, indent=2), encoding="utf-8")
    (folder / SENTENCE_FILES[0]).write_text(json.dumps(PLAIN_MODULES, indent=2), encoding="utf-8")
