"""Weights of the base that PEFT saved along with an adapter, beside those that the base itself has.

PEFT puts them in place of the base's. Where they are equal that changes nothing, and they are no part of the adapter.
"""

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.adapters.key_names import EMBEDDINGS, HEADS
from loragen.bases.empty_model import config_folder
from loragen.errors import AdapterError, ConfigError

_MOST_FILES = 1000


def remarks(adapter: Lora, base: str) -> tuple[str, ...]:
    """Remarks on an adapter's folder, once the weights that lie beside it were compared with those of a base at hand.

    Raises:
        AdapterError: one of them is other than the base's.
    """
    if not adapter.origin.saved_along:
        return adapter.origin.notes
    try:
        folder = config_folder(base, is_local=True)
    except ConfigError:
        unknown = sorted(adapter.origin.saved_along)
    else:
        unknown = refuse_changed(adapter, lambda name: _kept_in(folder, name), base)
    if not unknown:
        return adapter.origin.notes
    told = f"{', '.join(unknown[:4])} could not be compared, since the weights of the base {base} are not at hand"
    return (*adapter.origin.notes, told)


def refuse_changed(adapter: Lora, weight_of: Callable[[str], Tensor | None], base: str) -> list[str]:
    """Compare what was saved along with a base's own weights; returns the names that the base gave no weight for.

    Raises:
        AdapterError: one of them is other than the base's.
    """
    unknown = []
    for name, saved in sorted(adapter.origin.saved_along.items()):
        own = weight_of(name)
        if own is None:
            unknown.append(name)
        elif own.shape != saved.shape:
            raise AdapterError(
                f"The adapter brings a {name} of shape {tuple(saved.shape)}, where the base {base} has "
                f"{tuple(own.shape)}: its vocabulary was resized. Resize the base and save it, and name it with --base."
            )
        elif not _are_equal(own, saved):
            raise AdapterError(
                f"The adapter brings a {name} that is not that of the base {base}: it was trained too, which is more "
                "than a LoRA. Merge it with PEFT's merge_and_unload, or name the base it was made on with --base."
            )
    return unknown


def weight_in(model: nn.Module, name: str) -> Tensor | None:
    """A parameter of a model; `None` where it has none of the name."""
    try:
        return model.get_parameter(name)
    except AttributeError:
        return None


def _are_equal(own: Tensor, saved: Tensor) -> bool:
    """True for equal weights; a base may have been loaded in fewer bits before it was saved along."""
    own, saved = own.detach().cpu(), saved.detach().cpu()
    return torch.equal(own.to(saved.dtype), saved) or torch.equal(own.float(), saved.float())


def _kept_in(folder: Path, name: str) -> Tensor | None:
    """A weight from a base's safetensors files, whose names may have a prefix more or less; `None` if it has none.

    A head that the files lack is tied to the embedding.
    """
    places: dict[str, Path] = {}
    for path in islice(sorted(folder.glob("*.safetensors")), _MOST_FILES):
        try:
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError):
            return None
    module, _, kind = name.rpartition(".")
    found = [key for key in places if key == name] or [key for key in places if _is_ending(key, name)]
    if not found and module.rpartition(".")[2] in HEADS and kind == "weight":
        found = [key for key in places if _module_of(key) in EMBEDDINGS and key.endswith(f".{kind}")]
    if len(found) != 1:
        return None
    with safe_open(places[found[0]], framework="pt") as file:
        weight = file.get_tensor(found[0])
    assert isinstance(weight, Tensor)
    return weight


def _is_ending(key: str, name: str) -> bool:
    return key.endswith(f".{name}") or name.endswith(f".{key}")


def _module_of(key: str) -> str:
    """Last name of the module that has a parameter."""
    return key.rpartition(".")[0].rpartition(".")[2]
