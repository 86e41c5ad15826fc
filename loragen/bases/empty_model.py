"""Base models built from their configs alone: every module in its place and size, without weights, memory or code.

The model is laid out on torch's meta device, where a parameter has a shape and no memory: a base of any size takes a
second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from loragen.bases.hub import local_model, quiet_loading
from loragen.bases.hub_files import HubName, Limits, NotFetchedError, fetched
from loragen.bases.pretrained import MODEL_CONFIG, read_model_config
from loragen.errors import ConfigError, shown

_LIMITS = Limits(files=1, size=10_000_000)


def config_folder(name: str, *, is_local: bool) -> Path:
    """Folder of a base's ``config.json``; from the Hub no other file is fetched, and none if ``is_local``.

    Raises:
        ConfigError: there is no such config.
    """
    if (folder := local_model(name)) is None:
        return _hub_config(name, is_local=is_local)
    if not (folder / MODEL_CONFIG).is_file():
        read_model_config(name, folder)  # which says what is there instead
    return folder


def _hub_config(name: str, *, is_local: bool) -> Path:
    try:
        with quiet_loading():
            folder = fetched(HubName.parse(name.rstrip("/")), [MODEL_CONFIG], _LIMITS, is_local=is_local).folder
    except NotFetchedError as error:
        raise _no_config(name, str(error)) from error
    if not (folder / MODEL_CONFIG).is_file():
        raise _no_config(name, f"it has no {MODEL_CONFIG}")
    return folder


def _no_config(name: str, reason: str) -> ConfigError:
    return ConfigError(
        f"There is no config of the base {shown(name)}: it is no folder here, and the Hub gave none ({reason}). "
        f"Check the name, name another with --base, or go online once to fetch its {MODEL_CONFIG}."
    )


def declared_class(name: str, folder: Path) -> str:
    """The class of transformers that a config names, if transformers has it, else AutoModel.

    Raises:
        ConfigError: transformers cannot read the config.
    """
    import transformers

    with _config_errors(f"{name!r} has a {MODEL_CONFIG} that cannot be read"):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
    known = (each for each in config.architectures or () if isinstance(getattr(transformers, each, None), type))
    return next(known, "AutoModel")


def empty_model(name: str, folder: Path, class_name: str) -> Any:
    """A model of a class of transformers, or of the class that an auto class takes for the config, without memory.

    Raises:
        ConfigError: transformers cannot lay out such a model from the config.
    """
    import transformers

    read_model_config(name, folder)
    with _config_errors(f"{name!r} cannot be laid out as {class_name}"), torch.device("meta"):
        # Attention that is not installed must not keep a model from being laid out.
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, attn_implementation="eager")
        model_class = getattr(transformers, class_name)
        is_auto = class_name.startswith("Auto")
        return model_class.from_config(config, trust_remote_code=False) if is_auto else model_class(config)


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
