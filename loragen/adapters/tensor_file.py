"""Tensors of a safetensors file that may have been damaged or replaced: read whole, and finite."""

from collections.abc import Collection
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from loragen.errors import ZooError, cut


def read_tensors(path: Path, *, mapped: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, as they are stored, and its metadata; those ``mapped`` are not looked at here.

    Raises:
        ZooError: there is no such file, it is no safetensors file, or a value is not finite in float32.
    """
    if not path.is_file():
        raise ZooError(f"{cut(path)} cannot be read (there is no such file); restore it.")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            metadata = file.metadata() or {}
    except (OSError, SafetensorError, ValueError, KeyError, AttributeError) as error:  # the last of unknown dtypes
        raise ZooError(f"{cut(path)} cannot be read ({cut(error)}); restore it.") from error
    for name, value in tensors.items():
        if value.is_complex() or (name not in mapped and not value.to(torch.float32).isfinite().all()):
            raise ZooError(f"{cut(path)} holds values at {cut(name)} that are not finite in float32; restore it.")
    return tensors, metadata
