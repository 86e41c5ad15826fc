"""Names and contents of the files of an adapter folder, and its writing: the one place that writes adapters.

It takes weights as bytes, so that whoever made them, torch or numpy, writes the same folder.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from loragen.adapters.settings import CONFIG_NAME, LoraSettings
from loragen.files import write_folder

WEIGHTS_NAME = "adapter_model.safetensors"
PREFIX = "base_model.model."
"""Before the name of a site in the keys of weights."""
METADATA = {"format": "pt"}
"""Of weights files. The format's writer keeps no order among several entries."""


def key_of(site: str, letter: str) -> str:
    """The key of a site's factor A or B in a weights file."""
    return f"{PREFIX}{site}.lora_{letter}.weight"


def adapter_files(settings: LoraSettings, weights: bytes) -> dict[str, bytes]:
    """The files of a PEFT folder by name; ``weights`` are its tensors as safetensors."""
    config = json.dumps(settings.to_config(), indent=2) + "\n"
    return {CONFIG_NAME: config.encode(), WEIGHTS_NAME: weights}


def write_files(
    folder: Path, files: Mapping[str, bytes], extra_files: Mapping[str, str | bytes], *, replace: bool
) -> None:
    """Write `adapter_files` and further ones, whole or not at all, in place of a folder of ours if ``replace``.

    Raises:
        ConfigError: something stands there that may not be replaced.
    """
    assert not files.keys() & extra_files.keys(), "extra files take the adapter's own names"
    write_folder(folder, {**files, **extra_files}, replace=replace)
