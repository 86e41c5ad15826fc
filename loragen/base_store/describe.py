"""The card of a base: its sizes, and the linear modules that a LoRA can be put on."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, final

from loragen.base_store.listing import BaseInfo, embedded_info, folder_info, info_of, known_info
from loragen.bases.architecture import Architecture
from loragen.bases.hub import local_model, weights_hash
from loragen.bases.kept import kept_base, kept_names
from loragen.bases.known import EMBEDDED_NAMES, nearest_name
from loragen.bases.pretrained import loading_errors
from loragen.errors import ConfigError, shown
from loragen.paths import read_capped

_LARGEST_CONFIG = 10_000_000
"""Bytes of a tokenizer's config."""


@final
@dataclass(frozen=True)
class BaseCard:
    """What a base is; all but ``info`` is unknown while it is not on this machine."""

    info: BaseInfo
    architecture: str | None = None
    """Class of transformers."""
    layers: int | None = None
    hidden: int | None = None
    """Features of a hidden state."""
    vocabulary: int | None = None
    """Tokens."""
    positions: int | None = None
    """Tokens of the longest text."""
    has_chat_template: bool | None = None
    targets: Mapping[str, int] = field(default_factory=dict)
    """Names of the layers' linear modules, for ``target_modules``, with the number of modules of each."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.info.to_dict() | {key: value for key, value in asdict(self).items() if key != "info"}


def describe_base(name: str) -> BaseCard:
    """Describe a base from its config, without its weights.

    Args:
        name: of a kept base, of one that `get_base` knows, of the embedded model; or a folder.

    Raises:
        ConfigError: there is no such base here, or it is damaged.
    """
    info = _info(name.strip())
    if info.fault is not None:
        raise ConfigError(info.fault)
    if info.folder is None:
        return BaseCard(info)
    return _card(replace(info, weights_hash=info.weights_hash or weights_hash(info.folder)), info.folder)


def _info(name: str) -> BaseInfo:
    if name in EMBEDDED_NAMES:
        return embedded_info()
    if (record := kept_base(name)) is not None:
        return info_of(record)
    if (known := known_info(name)) is not None:
        return known
    folder = local_model(name, option="loragen base show")
    if folder is not None:
        return folder_info(name, folder, "a folder")
    near = nearest_name(name, kept_names())
    raise ConfigError(
        f"There is no base {shown(name)} here; {f'did you mean {near!r}? ' if near else ''}`loragen base list` shows "
        f"those that have a name, and `loragen base get` gets others."
    )


def _card(info: BaseInfo, folder: Path) -> BaseCard:
    import transformers

    with loading_errors(info.name, "with its config"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config()
    architecture = Architecture.of(str(folder), is_local=True)
    in_layers = [path for path in architecture.linear if any(part.isdecimal() for part in path.split("."))]
    return BaseCard(
        info,
        architecture.model_class,
        layers=getattr(config, "num_hidden_layers", None),
        hidden=getattr(config, "hidden_size", None),
        vocabulary=getattr(config, "vocab_size", None),
        positions=getattr(config, "max_position_embeddings", None),
        has_chat_template=_has_chat_template(folder),
        targets=dict(Counter(path.rpartition(".")[2] for path in in_layers)),
    )


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    path = folder / "tokenizer_config.json"
    try:
        config = json.loads(read_capped(path, _LARGEST_CONFIG, kind="tokenizer config")) if path.is_file() else None
    except (ValueError, RecursionError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))
