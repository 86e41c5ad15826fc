"""An adapter merged into its base model: a plain folder for transformers and sentence-transformers."""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import CONFIG_NAME
from loragen.bases.architecture import Architecture
from loragen.bases.hub import quiet_loading
from loragen.bases.saved_along import refuse_changed, weight_in
from loragen.errors import AdapterError
from loragen.files import atomic_folder

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".h5", ".msgpack", ".ot", ".onnx")
_EXPORTS = ("onnx", "openvino", "coreml")


def merge_into_base(adapter: Lora, base_folder: Path, out: Path, *, readme: str, replace: bool = True) -> None:
    """Write the base with the adapter's delta weights added, as a plain transformers or sentence-transformers folder.

    Weights are written in float32. Files beside them (tokenizer, pooling, further modules) are copied as they are, but
    not the base's exports to other runtimes, which would hold the old weights, and not its README: ``readme`` is the
    model card of the merged model.

    Raises:
        AdapterError: the base lacks a site of the adapter, has another shape there, or shares its weight with another
            module; or the folder does not read back as it was written.
        ConfigError: something stands at ``out`` that may not be replaced.
    """
    import transformers

    if (base_folder / CONFIG_NAME).is_file():
        raise AdapterError(
            f"The base {base_folder.name} is an adapter: it holds {CONFIG_NAME}; give the folder of a plain model."
        )
    # Of the class that the adapter was made on: it names the sites, and the folder is to keep its head.
    kind = Architecture.fitting(str(base_folder), adapter.sites, adapter.settings.task_type).model_class
    with quiet_loading():
        model = getattr(transformers, kind).from_pretrained(base_folder, dtype=torch.float32)
    refuse_changed(adapter, lambda name: weight_in(model, name), base_folder.name)
    with torch.no_grad():
        for site in adapter.sites:
            weight, delta = _weight_at(model, site, base_folder.name), adapter.delta_weight(site)
            _refuse_tied(model, site, base_folder.name)
            if weight.shape != delta.shape:
                raise AdapterError(
                    f"The adapter's update of {site!r} is {tuple(delta.shape)}, but the weight of the base "
                    f"{base_folder.name} there is {tuple(weight.shape)}; name the base it was made for with --base."
                )
            weight += delta
    with atomic_folder(out, replace=replace) as folder:
        _copy_beside_weights(base_folder, folder)
        with quiet_loading():
            model.save_pretrained(folder)
        (folder / "README.md").write_text(readme, encoding="utf-8")
        _check_written(model, adapter, kind, folder)


def _refuse_tied(model: nn.Module, site: str, base: str) -> None:
    """Refuse to change a weight that another module of the base shares, as tied embeddings do."""
    weight = model.get_submodule(site).weight
    assert isinstance(weight, Tensor)
    for name, module in model.named_modules():
        other = getattr(module, "weight", None)
        if name != site and isinstance(other, Tensor) and other.data_ptr() == weight.data_ptr():
            raise AdapterError(
                f"The adapter updates {site!r}, whose weight the base {base} shares with {name!r}: merged, it would "
                "change both. Use the adapter unmerged, with PEFT, or untie the base's embeddings first."
            )


def _check_written(model: nn.Module, adapter: Lora, kind: str, folder: Path) -> None:
    """Load a merged model back and compare the weights that the adapter changed."""
    import transformers

    with quiet_loading():
        read = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32)
    for site in adapter.sites:
        if not torch.equal(_weight_at(read, site, folder.name), _weight_at(model, site, folder.name)):
            raise AdapterError(
                f"The merged model does not read back as it was written at {site!r}; nothing was kept. Check the disk."
            )


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


def _copy_beside_weights(base_folder: Path, folder: Path) -> None:
    for path in base_folder.iterdir():
        if path.name.startswith(".") or path.name in _EXPORTS:
            continue
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        elif not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)  # not its mode: a base may be read-only
