"""Base models built from their configs alone: every module in its place and size, without weights, memory or code.

The model is laid out on torch's meta device, where a parameter has a shape and no memory: a base of any size takes a
second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from loragen.bases.hub import EMBEDDED_MODEL, quiet_loading, resolve_model
from loragen.errors import ConfigError, shown

CONFIG_NAME = "config.json"
MOST_LAYERS = 10_000
"""Layers, or experts of a layer."""


def config_folder(name: str, *, is_local: bool) -> Path:
    """Folder of a base's ``config.json``; from the Hub no other file is fetched, and none if ``is_local``.

    Raises:
        ConfigError: there is no such config.
    """
    known = name in (EMBEDDED_MODEL, f"sentence-transformers/{EMBEDDED_MODEL}") or Path(name).expanduser().is_dir()
    if not known:
        return _hub_config(name, is_local=is_local).parent
    folder = resolve_model(name)
    if not (folder / CONFIG_NAME).is_file():
        raise ConfigError(f"{folder} holds no {CONFIG_NAME}; give the folder of a transformers model, or its Hub name.")
    return folder


def _hub_config(name: str, *, is_local: bool) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        with quiet_loading():
            return Path(hf_hub_download(name, CONFIG_NAME, local_files_only=is_local))
    except (OSError, ValueError) as error:  # both of them roots of the Hub's own errors
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"There is no config of the base {name!r}: it is no folder here, and the Hub gave none ({reason}). "
            f"Check the name, or go online once to fetch its {CONFIG_NAME}."
        ) from error


def declared_class(name: str, folder: Path) -> str:
    """The class of transformers that a config names, if transformers has it, else AutoModel.

    Raises:
        ConfigError: transformers cannot read the config.
    """
    import transformers

    with _config_errors(f"{name!r} has a {CONFIG_NAME} that cannot be read"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    known = (each for each in config.architectures or () if isinstance(getattr(transformers, each, None), type))
    return next(known, "AutoModel")


def empty_model(name: str, folder: Path, class_name: str) -> Any:
    """A model of a class of transformers, or of the class that an auto class takes for the config, without memory.

    Raises:
        ConfigError: transformers cannot lay out such a model from the config.
    """
    import transformers

    with _config_errors(f"{name!r} cannot be laid out as {class_name}"), torch.device("meta"):
        # Attention that is not installed must not keep a model from being laid out.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, attn_implementation="eager")
        _refuse_giants(config.to_dict())
        model_class = getattr(transformers, class_name)
        is_auto = class_name.startswith("Auto")
        return model_class.from_config(config, trust_remote_code=False) if is_auto else model_class(config)


def _refuse_giants(values: Any) -> None:
    """Refuse numbers of layers for which a model could not even be laid out.

    Raises:
        ValueError: there is one.
    """
    for key, value in values.items() if isinstance(values, dict) else ():
        _refuse_giants(value)
        if isinstance(value, int) and value > MOST_LAYERS and ("layer" in str(key) or "expert" in str(key)):
            raise ValueError(f"{shown(key)} is {shown(value)}, and at most {MOST_LAYERS:,} can be")


@contextmanager
def _config_errors(fault: str) -> Iterator[None]:
    """Turn whatever transformers raises over a config into a ConfigError, and keep its remarks to itself."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # a foreign config can fail at any place of any architecture
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"The base {fault} ({reason}); an architecture was wanted that the installed transformers has such a class "
            "for, since no code that comes with a model is run."
        ) from error
    finally:
        logging.set_verbosity(verbosity)
