"""An adapter merged into its base model: a plain folder for transformers and sentence-transformers."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import HEADED, Architecture
from loragen.bases.beside_weights import copy_beside_weights
from loragen.bases.hub import quiet_loading
from loragen.bases.pretrained import Pretrained, load_pretrained
from loragen.bases.renaming import moved, renamed
from loragen.bases.saved_along import refuse_changed, weight_in
from loragen.errors import AdapterError
from loragen.files import atomic_folder


def merge_into_base(adapter: Lora, base_folder: Path, out: Path, *, readme: str, replace: bool = True) -> None:
    """Write the base with the adapter's delta weights added, as a plain transformers or sentence-transformers folder.

    Weights are written in float32, those that the base has and no others. A head that shares its weight with the
    embeddings gets one of its own where the adapter updates it. Files beside the weights (tokenizer, pooling, further
    modules) are copied as they are, but not the base's exports to other runtimes, which would hold the old weights, and
    not its README: ``readme`` is the model card of the merged model.

    Raises:
        AdapterError: the base lacks a site of the adapter, has another shape there, or lacks the head that the adapter
            was trained under; or the folder does not read back as it was written.
        ConfigError: the base cannot be loaded, or something stands at ``out`` that may not be replaced.
    """
    adapter, loaded = _opened(adapter, base_folder)
    model, untied = loaded.model, []
    refuse_changed(adapter, lambda name: weight_in(model, name), base_folder.name)
    with torch.no_grad():
        for site in adapter.sites:
            if _untie(model, site, base_folder.name):
                untied.append(site)
            weight, delta = _weight_at(model, site, base_folder.name), adapter.delta_weight(site)
            if weight.shape != delta.shape:
                raise AdapterError(
                    f"The adapter's update of {site!r} is {tuple(delta.shape)}, but the weight of the base "
                    f"{base_folder.name} there is {tuple(weight.shape)}; name the base it was made for with --base."
                )
            weight += delta
    with atomic_folder(out, replace=replace) as folder:
        copy_beside_weights(base_folder, folder)
        weights = {name: weight for name, weight in model.state_dict().items() if name not in loaded.made_up}
        try:
            with quiet_loading():
                model.save_pretrained(folder, state_dict=weights)
        except SafetensorError as error:  # its writer's own error for a disk that fails
            raise OSError(errno.EIO, str(error), str(out)) from error
        (folder / "README.md").write_text(readme + _note_on(untied), encoding="utf-8")
        _check_written(loaded, weights, untied, folder)


def _opened(adapter: Lora, base_folder: Path) -> tuple[Lora, Pretrained]:
    """The base in float32, and the adapter under the names that its modules have there.

    Of the class that the adapter was made on, if that has a place for all tensors of the base; else of the class that
    the base's config names: a masked language model keeps its head where an adapter of the encoder is merged.
    """
    name = str(base_folder)
    base = Architecture.fitting(name, adapter.sites, adapter.settings.task_type)
    adapter = renamed(adapter, base)
    loaded = load_pretrained(name, base_folder, base.model_class)
    _refuse_lost_head(adapter, loaded, base_folder.name)
    if loaded.made_up or loaded.left_out:
        declared = Architecture.of(name)
        if (placed := moved(adapter, declared)) is not None and declared.model_class != base.model_class:
            adapter, loaded = placed, load_pretrained(name, base_folder, declared.model_class)
    loaded.refuse_made_up(base_folder.name)
    return adapter, loaded


def _refuse_lost_head(adapter: Lora, loaded: Pretrained, base: str) -> None:
    """Refuse an adapter that was trained with a head of its own, where neither it nor the base has that head."""
    if adapter.settings.task_type not in HEADED:
        return
    inner = f"{loaded.model.base_model_prefix}."
    if lost := sorted(key for key in loaded.made_up if not key.startswith(inner)):
        raise AdapterError(
            f"The adapter is of the task type {adapter.settings.task_type}, but neither it nor the base {base} has the "
            f"head {lost[0]!r}, so that a merged one would be random numbers. Merge it as an adapter of the encoder: "
            "`loragen combine ADAPTER --without-head --out OUT` makes one."
        )


def _untie(model: Any, site: str, base: str) -> bool:
    """Give a module parameters of its own, where other modules share them; true if there were such."""
    _weight_at(model, site, base)
    module = model.get_submodule(site)
    shared = [name for name, parameter in module.named_parameters(recurse=False) if _is_shared(model, parameter)]
    for name in shared:
        parameter = getattr(module, name)
        setattr(module, name, nn.Parameter(parameter.detach().clone(), requires_grad=False))
        model.all_tied_weights_keys.pop(f"{site}.{name}", None)
    # Encoder-decoders scale their outputs by this entry. They keep it: weights that differ are not tied on loading.
    if shared and not model.config.is_encoder_decoder:
        for config in (model.config, model.config.get_text_config()):
            config.tie_word_embeddings = False
    return bool(shared)


def _is_shared(model: nn.Module, parameter: Tensor) -> bool:
    """True if several modules of a model hold a parameter."""
    held = (one for module in model.modules() for one in module.parameters(recurse=False))
    return sum(one is parameter for one in held) > 1


def _note_on(untied: Sequence[str]) -> str:
    """A paragraph for the model card on modules that were untied."""
    if not untied:
        return ""
    names = ", ".join(f"`{site}`" for site in untied)
    return f"""
The base shares the weight of {names} with its embeddings. The adapter updates it, so that it was untied: the model has
a weight of its own there, and the embeddings are the base's.
"""


def _check_written(loaded: Pretrained, weights: Mapping[str, Tensor], untied: Sequence[str], folder: Path) -> None:
    """Load a merged model back: it must have these weights and no others."""
    read = load_pretrained(str(folder), folder, type(loaded.model).__name__)
    met = read.model.state_dict()
    for name, weight in weights.items():
        if name not in met or not torch.equal(met[name], weight):
            why = "transformers ties it again" if name.rpartition(".")[0] in untied else "check the disk"
            raise AdapterError(
                f"The merged model does not read back as it was written at {name.rpartition('.')[0]!r}; nothing was "
                f"kept ({why}). Use the adapter unmerged, with PEFT."
            )
    if read.made_up != loaded.made_up or read.left_out:
        other = sorted((read.made_up ^ loaded.made_up) | read.left_out)
        raise AdapterError(f"The merged model does not hold the weights of its base at {other[0]!r}; nothing was kept.")


def _weight_at(model: nn.Module, site: str, base: str) -> Tensor:
    """A module's weight as (out, in): a view where it is kept the other way round, as GPT-2's are."""
    from transformers.pytorch_utils import Conv1D

    try:
        module = model.get_submodule(site)
        weight = module.weight
    except AttributeError:
        raise AdapterError(
            f"The adapter updates {site!r}, which the base {base} does not have; "
            "name the base it was made for with --base."
        ) from None
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight
