"""A LoRA as a GGUF file for llama.cpp: two tensors a site, with the scaling of each site folded into its B.

llama.cpp scales a pair by ``adapter.lora.alpha`` / rank, and by 1 where the file states no alpha. So none is stated:
one number could hold neither rsLoRA nor an alpha_pattern.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loragen.base_store.gguf_header import gguf_package
from loragen.errors import AdapterError
from loragen.exporters.export import Exported, Request
from loragen.exporters.gguf_files import check_model, check_tensor, new_gguf, opened_gguf, refuse_out
from loragen.exporters.gguf_names import HEAD, MERGE_INSTEAD, Placed, placed

DTYPES = {"f32": torch.float32, "f16": torch.float16}
_TOLERANCE = {"f32": 1e-5, "f16": 2e-3}
"""Largest Frobenius norm of what reading back may miss of a site's delta weight, as a share of its own."""


def write_gguf_lora(request: Request) -> Exported:
    """Write an adapter for llama.cpp's ``--lora``, read it back, and compare every delta weight.

    Raises:
        AdapterError: it does not fit its base, has a site that llama.cpp cannot adapt, changes nothing, overflows the
            type, or does not read back as it was written.
        ConfigError: there is no config of the base, the GGUF file of the base is another model's, or something stands
            at ``out`` that may not be replaced.
        MissingExtraError: the package gguf is not installed.
    """
    refuse_out(request.out, force=request.force, read=request.base_gguf)
    found = placed(request.adapter, request.base, is_local=request.is_local)
    _refuse_head(found)
    if found.adapter.norm() == 0:
        raise AdapterError("The adapter leaves its base unchanged (all delta weights are zero); nothing was written.")
    if request.base_gguf is not None:
        _check_against(found, request.base_gguf)
    gguf = gguf_package()
    text = gguf.GGUFValueType.STRING
    facts: dict[str, tuple[Any, ...]] = {"general.type": ("adapter", text), "adapter.type": ("lora", text)}
    if name := request.out.stem:
        facts["general.name"] = (name, text)
    with new_gguf(request.out, found.arch, facts) as writer:
        for tensor, factor in _tensors(found, DTYPES[request.dtype]):
            writer.add_tensor(tensor, factor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.flush()
        _check_written(found, writer.path, _TOLERANCE[request.dtype])
    model = request.base_gguf or Path("BASE.gguf")
    use = f"llama-server -m {model} --lora {request.out}"
    return Exported(request.out, found.arch, len(found.places), request.dtype, use)


def _refuse_head(found: Placed) -> None:
    """Refuse an update of a head that llama.cpp's models share with the embeddings: there is no tensor for it alone."""
    for site, place in found.places.items():
        if place.tensor == HEAD and found.is_tied:
            raise AdapterError(
                f"The base shares the weight of {site!r} with its embeddings, so that its GGUF model has no {HEAD} for "
                "a LoRA file to update; export it with --to gguf-model, make the adapter without that site, or "
                f"{MERGE_INSTEAD}."
            )


def _check_against(found: Placed, path: Path) -> None:
    """Refuse a base whose GGUF model lacks a tensor, or has it in another shape."""
    reader = opened_gguf(path)
    check_model(reader, path, found.arch)
    for site in found.adapter.spec.sites:
        name = found.places[site.name].tensor
        check_tensor(reader.names.get(name), path, name, site)


def _tensors(found: Placed, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Names and factors in the order that llama.cpp's own tools write: A before B."""
    for site, place in found.places.items():
        a, b = found.adapter.scaled_factors(site)
        for letter, factor in (("a", a), ("b", place.stored(b))):
            kept = factor.detach().to("cpu", dtype).contiguous()
            if not kept.isfinite().all():
                raise AdapterError(f"A factor of {site!r} overflows float16; write it with --dtype f32.")
            yield f"{place.tensor}.lora_{letter}", kept


def _check_written(found: Placed, file: Path, tolerance: float) -> None:
    """Read a file back: it must hold these pairs and no others, and each must give the delta weight of its site."""
    names = opened_gguf(file).names
    if names.keys() != {f"{place.tensor}.lora_{letter}" for place in found.places.values() for letter in "ab"}:
        raise AdapterError("The file does not read back as it was written; check the disk. Nothing was kept.")
    for site, place in found.places.items():
        a, b = (torch.from_numpy(names[f"{place.tensor}.lora_{letter}"].data.copy()).float() for letter in "ab")
        wanted = found.adapter.delta_weight(site)
        missed = float((place.restored(b @ a) - wanted).norm())
        if missed > tolerance * float(wanted.norm()):
            raise AdapterError(
                f"{site!r} does not read back as it was written: {missed:.3g} of its {float(wanted.norm()):.3g} are "
                "missed. Nothing was kept; where it was written in f16, take --dtype f32."
            )
