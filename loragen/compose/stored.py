"""Dynamic compositions on disk: a manifest, the gates' tensors, and each expert as a PEFT folder of its own.

    composition.yaml            method, its settings, names of the experts in order, base, labels
    gates.safetensors           tensors of the gates, where the method has any
    experts/NAME/               adapter_config.json and adapter_model.safetensors

Nothing is pickled. What is read is checked for its size before, and for its shapes after.
"""

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import torch
from pydantic import Field

from loragen.adapters.adapter import Lora
from loragen.adapters.folder_files import WEIGHTS_NAME
from loragen.adapters.folders import COMPOSITION_NAME
from loragen.adapters.settings import CONFIG_NAME
from loragen.adapters.tensor_file import read_tensors
from loragen.bases.base import LabelTargets
from loragen.bases.wording import Chat
from loragen.compose.composition import Composition
from loragen.compose.experts import MOST_EXPERTS, Experts
from loragen.compose.registry import row_named
from loragen.config import StrictModel
from loragen.errors import AdapterError, ConfigError, ZooError, cut
from loragen.files import atomic_folder, refuse_to_replace
from loragen.paths import is_file
from loragen.values import PartName

MANIFEST, GATES, EXPERTS = COMPOSITION_NAME, "gates.safetensors", "experts"
LARGEST_GATES, LARGEST_EXPERT = 2**30, 2**32
"""Bytes of the file of gates, and of the weights of one expert."""
_RESTORE = "restore it, or compose again with `loragen compose`."


class CompositionManifest(StrictModel):
    """The manifest of a dynamic composition."""

    format: Literal[1] = 1
    method: str = Field(max_length=100)
    settings: dict[str, Any] = Field({}, max_length=100)
    experts: tuple[PartName, ...] = Field(min_length=1, max_length=MOST_EXPERTS)
    """Names of their folders, in order."""
    base: str = Field(min_length=1, max_length=1_000)
    base_hash: str | None = Field(None, max_length=100)
    description: str | None = None
    labels: tuple[str, ...] = ()
    wording: str | Chat | None = None
    label_targets: LabelTargets = "moving"
    facts: dict[str, float] = Field({}, max_length=100)


def is_composition(folder: Path) -> bool:
    """True for a folder with the manifest of a composition; links are none."""
    return is_file(folder / MANIFEST) and not (folder / MANIFEST).is_symlink()


def write_composition(folder: Path, composition: Composition, facts: Mapping[str, Any], *, force: bool) -> None:
    """Write a composition, whole or not at all, and read it back.

    Args:
        folder: to be written.
        composition: what is written.
        facts: further fields of the manifest.
        force: replace a folder of ours that stands there.

    Raises:
        ConfigError: something stands there that may not be replaced.
        AdapterError: it came back other than it was written.
    """
    refuse_to_replace([folder], force=force)
    manifest = CompositionManifest.checked(
        {
            "method": composition.method,
            "settings": composition.settings.model_dump(mode="json"),
            "experts": list(composition.experts.names),
            **{name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()},
        },
        source="The composition",
    )
    tensors = {name: value.detach().cpu().contiguous() for name, value in composition.tensors.items()}
    with atomic_folder(folder, replace=force) as staging:
        (staging / MANIFEST).write_text(manifest.to_yaml(), encoding="utf-8")
        if tensors:
            (staging / GATES).write_bytes(safetensors.torch.save(tensors))
        for name, lora in zip(composition.experts.names, composition.experts.loras, strict=True):
            place = staging / EXPERTS / name
            place.mkdir(parents=True)
            for file, content in lora.files().items():
                (place / file).write_bytes(content)
        _, found = read_composition(staging)
        _compare(found, composition)


def _compare(found: Composition, wanted: Composition) -> None:
    for name, value in wanted.tensors.items():
        if not torch.equal(found.tensors[name], value.detach().cpu()):
            raise AdapterError(f"The gate tensor {name} came back other than it was written; compose again.")
    for one, other in zip(found.experts.loras, wanted.experts.loras, strict=True):
        pairs = ((one.lora_A, other.lora_A), (one.lora_B, other.lora_B))
        if not all(torch.equal(mine[site], yours[site].cpu()) for mine, yours in pairs for site in other.sites):
            raise AdapterError("An expert came back other than it was written; compose again.")


def read_composition(folder: Path) -> tuple[CompositionManifest, Composition]:
    """Read a composition.

    Raises:
        AdapterError: there is none, or a file is missing, damaged, too large or a link.
    """
    if not is_composition(folder):
        raise AdapterError(
            f"{cut(folder)} holds no dynamic composition (no {MANIFEST}); make one with `loragen compose`."
        )
    try:
        manifest = CompositionManifest.from_yaml(folder / MANIFEST)
        row = row_named(manifest.method)
        settings = row.settings.checked(manifest.settings, source=f"{folder / MANIFEST}, settings")
        tensors = {}
        if row.shapes is not None and (folder / GATES).exists():
            _refuse_odd(folder / GATES, LARGEST_GATES)
            tensors = {name: value.float() for name, value in read_tensors(folder / GATES)[0].items()}
        loras = [_expert(folder / EXPERTS / name) for name in manifest.experts]
    except (ConfigError, ZooError) as error:
        raise AdapterError(f"The composition {cut(folder)} is damaged; {_RESTORE}\n{error}") from error
    return manifest, Composition(manifest.method, settings, Experts.of(loras, manifest.experts), tensors)


def _expert(folder: Path) -> Lora:
    for part in (folder.parent, folder):
        if part.is_symlink():
            raise AdapterError(f"{cut(part)} is a link; {_RESTORE}")
    for name, most in ((WEIGHTS_NAME, LARGEST_EXPERT), (CONFIG_NAME, LARGEST_GATES)):
        _refuse_odd(folder / name, most)
    return Lora.load(folder)


def _refuse_odd(file: Path, most: int) -> None:
    """Refuse a file that is missing, none, a link, or larger than any of its kind.

    Raises:
        AdapterError: it is one of these.
    """
    try:
        facts = file.lstat()
    except OSError as error:
        raise AdapterError(f"{cut(file)} cannot be read ({error.strerror}); {_RESTORE}") from error
    if not stat.S_ISREG(facts.st_mode):
        raise AdapterError(f"{cut(file)} is no plain file; {_RESTORE}")
    if facts.st_size > most:
        raise AdapterError(f"{cut(file)} has {facts.st_size:,} bytes, at most {most:,} were wanted; {_RESTORE}")
