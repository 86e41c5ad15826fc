"""Merges on delta weights: exact weighted sums, rank control, and adapters folded into their base model."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from loragen.adapter import Adapter
from loragen.errors import AdapterError
from loragen.files import atomic_folder

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".h5", ".msgpack", ".ot", ".onnx")
_EXPORTS = ("onnx", "openvino", "coreml")


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The adapter whose delta weight is Σ wᵢ · delta weightᵢ at every site, exactly.

    Where all share their A the rank stays; elsewhere factors are concatenated, and the rank is the sum of the ranks.
    Averaging A and B apart would not give this: mean(B) · mean(A) is not mean(B · A).

    Raises:
        AdapterError: there is no adapter, a weight is missing, or shapes or bases differ.
    """
    if not adapters or len(adapters) != len(weights):
        raise AdapterError(
            f"A merge takes one weight an adapter, and at least one; met {len(adapters)} and {len(weights)}."
        )
    bases = {adapter.settings.base_model_name_or_path for adapter in adapters}
    if len(bases) > 1:
        raise AdapterError(f"Adapters of one merge must share their base model; met {sorted(map(str, bases))}.")
    lora_a, lora_b = {}, {}
    for site in dict.fromkeys(site for adapter in adapters for site in adapter.sites):
        holders = [
            (adapter, weight) for adapter, weight in zip(adapters, weights, strict=True) if site in adapter.lora_A
        ]
        lora_a[site], lora_b[site] = _summed(site, holders)
    return _alike(adapters[0], lora_a, lora_b)


def _summed(site: str, holders: Sequence[tuple[Adapter, float]]) -> tuple[Tensor, Tensor]:
    factors = [(*adapter.scaled_factors(site), weight) for adapter, weight in holders]
    shapes = {(len(b), a.shape[1]) for a, b, _ in factors}
    if len(shapes) > 1:
        raise AdapterError(f"Adapters of one merge must agree on {site!r}, but its (out, in) is {sorted(shapes)}.")
    first = factors[0][0]
    if all(torch.equal(a, first) for a, _, _ in factors):
        return first, torch.stack([weight * b for _, b, weight in factors]).sum(0)
    return torch.cat([a for a, _, _ in factors]), torch.cat([weight * b for _, b, weight in factors], dim=1)


def _alike(adapter: Adapter, lora_a: Mapping[str, Tensor], lora_b: Mapping[str, Tensor]) -> Adapter:
    """Other factors for the base of ``adapter``."""
    settings = adapter.settings
    return Adapter.from_factors(
        lora_a,
        lora_b,
        base_model_name_or_path=settings.base_model_name_or_path,
        task_type=settings.task_type,
        fan_in_fan_out=settings.fan_in_fan_out,
    )


def truncated(adapter: Adapter, r: int) -> Adapter:
    """The nearest adapter of rank at most ``r`` at every site (Eckart-Young), from the factors by QR and SVD."""
    lora_a, lora_b = {}, {}
    for site in adapter.sites:
        a, b = (factor.double() for factor in adapter.scaled_factors(site))
        q_b, triangle_b = torch.linalg.qr(b)
        q_a, triangle_a = torch.linalg.qr(a.T)
        left, singular, right = torch.linalg.svd(triangle_b @ triangle_a.T)
        rank = min(r, len(singular))
        lora_b[site] = (q_b @ left[:, :rank] * singular[:rank]).float()
        lora_a[site] = (right[:rank] @ q_a.T).float()
    return _alike(adapter, lora_a, lora_b)


def merge_into_base(adapter: Adapter, base_folder: Path, out: Path) -> None:
    """Write the base with the adapter's delta weights added, as a plain transformers or sentence-transformers folder.

    Weights are written in float32. Files beside them (tokenizer, pooling, further modules) are copied as they are, but
    not the base's exports to other runtimes, which would hold the old weights.

    Raises:
        AdapterError: the base lacks a site of the adapter, or has another shape there.
    """
    from transformers import AutoModel

    from loragen.embedding import quiet_loading

    with quiet_loading():
        model = AutoModel.from_pretrained(base_folder, dtype=torch.float32)
    with torch.no_grad():
        for site in adapter.sites:
            weight, delta = _weight_at(model, site, base_folder.name), adapter.delta_weight(site)
            if weight.shape != delta.shape:
                raise AdapterError(
                    f"The adapter's update of {site!r} is {tuple(delta.shape)}, but the weight of the base "
                    f"{base_folder.name} there is {tuple(weight.shape)}; name the base it was made for with --base."
                )
            weight += delta
    with atomic_folder(out) as folder:
        _copy_beside_weights(base_folder, folder)
        with quiet_loading():
            model.save_pretrained(folder)


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
