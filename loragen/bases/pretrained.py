"""Loading of pretrained weights and tokenizers, the one place where transformers reads a base.

Whatever keeps a base from being loaded is a ConfigError of one line, and weights that transformers would make up, since
the checkpoint lacks them, are told.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loragen.bases.hub import quiet_loading
from loragen.errors import ConfigError, LoragenError, shown

if TYPE_CHECKING:
    import torch

MODEL_CONFIG = "config.json"
_ADAPTER_CONFIG = "adapter_config.json"
_QUANTISED = ("quantization_config", "compression_config")
_LFS = b"version https://git-lfs.github.com/spec/"
MOST_LAYERS = 10_000
"""Layers of a base, or experts of a layer."""
_LARGEST_CONFIG = 10_000_000  # bytes


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model with the weights of a checkpoint."""

    model: Any
    """Of a class of transformers, in evaluation mode."""
    made_up: frozenset[str]
    """Names of the model's weights that the checkpoint lacks: random numbers."""
    left_out: frozenset[str]
    """Names of tensors in the checkpoint that the class has no place for."""

    def refuse_made_up(self, name: str, *, option: str = "--base") -> None:
        """Refuse a model with weights that the checkpoint lacks; a pooler's, which nothing here reads, may be missing.

        Raises:
            ConfigError: a weight is missing.
        """
        if missing := sorted(key for key in self.made_up if "pooler" not in key.split(".")):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigError(
                f"The base {shown(name)} has no weights for {shown(missing[0])}{more} of {type(self.model).__name__}, "
                f"where transformers would put random numbers; name a base that has them with {option}."
            )


def load_pretrained(
    name: str,
    folder: Path,
    class_name: str,
    *,
    dtype: "torch.dtype | None" = None,
    use: str | None = None,
    option: str = "--base",
) -> Pretrained:
    """Load a checkpoint into a class of transformers; no code of its own is run.

    Args:
        name: of the base, for messages.
        folder: of the checkpoint.
        class_name: a class or auto class of transformers.
        dtype: of the weights; by default float32.
        use: what it is loaded as, for messages; by default the class.
        option: of the command line that names the model, for messages.

    Raises:
        ConfigError: the folder holds no whole, plain model of that class.
    """
    import torch
    import transformers

    check_folder(name, folder, option=option)
    with _by_transformers(name, f"as {use or class_name}", option):
        model, told = getattr(transformers, class_name).from_pretrained(
            folder,
            dtype=dtype or torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    return Pretrained(model.eval(), frozenset(told["missing_keys"]), frozenset(told["unexpected_keys"]))


def load_tokenizer(name: str, folder: Path, *, option: str = "--base") -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        ConfigError: the folder holds none that can be read.
    """
    import transformers

    with _by_transformers(name, "with its tokenizer", option):
        found = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if len(found.get_vocab()) <= len(found.all_special_tokens):  # made up where the files are missing
            raise ValueError("it has no vocabulary")
        return found


def check_folder(name: str, folder: Path, *, option: str = "--base") -> None:
    """Refuse a folder that holds no plain model, as far as that is seen without reading its weights.

    Raises:
        ConfigError: it has no readable config, is an adapter, is quantised, or its weights are missing.
    """
    config = read_model_config(name, folder, option=option)
    if (folder / _ADAPTER_CONFIG).is_file():
        raise ConfigError(
            f"The base {shown(name)} is an adapter: it holds {_ADAPTER_CONFIG}; give the folder of a plain model with "
            f"{option}."
        )
    refuse_quantised(name, config, option=option)
    files = sorted(folder.rglob("*.safetensors"))
    if not files and any(folder.glob("*.bin")):
        raise ConfigError(
            f"The base {shown(name)} has its weights as pickles (*.bin), which can run any code when they are read; "
            f"if you trust it, save it again with transformers' save_pretrained, or name another with {option}."
        )
    if not files:
        raise ConfigError(
            f"The base {shown(name)} has no weights (*.safetensors) beside its {MODEL_CONFIG}; fetch it again, or name "
            f"another with {option}."
        )
    if pointers := [path.name for path in files if _is_lfs_pointer(path)]:
        raise ConfigError(
            f"{pointers[0]} of the base {shown(name)} is a git-LFS pointer in place of weights; run `git lfs pull` in "
            "its repository."
        )


def read_model_config(name: str, folder: Path, *, option: str = "--base") -> dict[str, Any]:
    """The ``config.json`` of a model.

    Raises:
        ConfigError: it is missing, or no mapping in JSON.
    """
    path = folder / MODEL_CONFIG
    if not path.is_file():
        met = "is empty" if not any(folder.iterdir()) else f"holds no {MODEL_CONFIG}"
        raise ConfigError(
            f"The base {shown(name)} {met}; give the folder of a transformers model, or its Hub name, with {option}."
        )
    try:
        if path.stat().st_size > _LARGEST_CONFIG:
            raise ValueError("too large")
        content = path.read_bytes()
        if content.startswith(_LFS):
            raise ConfigError(
                f"{MODEL_CONFIG} of the base {shown(name)} is a git-LFS pointer; run `git lfs pull` in its repository."
            )
        config = json.loads(content)
    except (ValueError, RecursionError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"{MODEL_CONFIG} of the base {shown(name)} is no readable JSON ({_first_line(error)}); fetch it again, or "
            f"name another with {option}."
        ) from error
    if not isinstance(config, dict):
        raise ConfigError(f"{MODEL_CONFIG} of the base {shown(name)} holds no mapping; fetch the base again.")
    _refuse_giants(name, config)
    return config


def _refuse_giants(name: str, values: Any) -> None:
    """Refuse numbers of layers for which a model could not even be laid out.

    Raises:
        ConfigError: there is one.
    """
    for key, value in values.items() if isinstance(values, dict) else ():
        _refuse_giants(name, value)
        if isinstance(value, int) and value > MOST_LAYERS and ("layer" in key or "expert" in key):
            raise ConfigError(
                f"{MODEL_CONFIG} of the base {shown(name)} says {shown(key)}: {shown(value)}, and at most "
                f"{MOST_LAYERS:,} are taken; fetch the base again."
            )


def refuse_quantised(name: str, config: dict[str, Any], *, option: str = "--base") -> None:
    """Refuse the config of a model whose weights are quantised.

    Raises:
        ConfigError: they are.
    """
    parts = [config, *(part for key, part in config.items() if key.endswith("_config") and isinstance(part, dict))]
    found = next((part[key] for part in parts for key in _QUANTISED if part.get(key)), None)
    if found is None:
        return
    method = found.get("quant_method") if isinstance(found, dict) else None
    if method is None and isinstance(found, dict) and (found.get("load_in_4bit") or found.get("load_in_8bit")):
        method = "bitsandbytes"
    raise ConfigError(
        f"The base {shown(name)} is quantised{f' ({shown(method)})' if method else ''}, and adapters are computed on "
        f"plain weights here; name the model that it was quantised from with {option}."
    )


@contextmanager
def loading_errors(name: str, how: str, *, option: str = "--base") -> Iterator[None]:
    """Turn whatever is raised over a checkpoint into a ConfigError.

    Raises:
        ConfigError: something was raised.
    """
    try:
        yield
    except LoragenError:
        raise
    except Exception as error:  # a foreign checkpoint can fail at any place of any architecture
        raise ConfigError(
            f"The base {shown(name)} cannot be loaded {how} ({_first_line(error)}); fetch it again if it is damaged, "
            f"or name another with {option}. No code that comes with a model is run."
        ) from error


@contextmanager
def _by_transformers(name: str, how: str, option: str) -> Iterator[None]:
    """`loading_errors`, with transformers' bars and remarks kept to itself."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with loading_errors(name, how, option=option), quiet_loading():
            yield
    finally:
        logging.set_verbosity(verbosity)


def _is_lfs_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_LFS)) == _LFS


def _first_line(error: Exception) -> str:
    """An error in one line of bounded length."""
    line = " ".join(str(error).split("\n\n")[0].split()) or type(error).__name__
    return line if len(line) <= 240 else f"{line[:239]}…"
