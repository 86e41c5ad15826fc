"""Edits of a trained generator: low-rank changes of its network by which it has forgotten an expert, a file each.

An edit adds B · A to the weights of some linear layers and takes the expert's row out of what the generator looks up.
The file ``edits/EXPERT.safetensors`` in the generator's folder holds the factors and, in its header, the facts. A
generator is loaded with all edits that lie there, in the order of their numbers; one whose file is gone was never made.
"""

import copy
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import Field, ValidationError
from safetensors.torch import save
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.adapters.tensor_file import read_tensors
from loragen.conditions.condition import Condition
from loragen.config import StrictModel
from loragen.errors import GeneratorError, ZooError, cut, shown
from loragen.files import add_file, sha256_of
from loragen.generators.trained import Provenance, TrainedGenerator
from loragen.locks import lock
from loragen.values import LARGEST_LAYER, MOST_PARTS, PartName

EDITS = "edits"
"""Folder of the edits in a generator's folder."""
TENSORS = "generator.safetensors"
"""The file of a generator that an edit is made for, known by its hash."""
LINEAR = (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)
"""Layers that an edit can change; a convolution's weight counts as a matrix of its first size by all others."""
_FACTS, _END = "facts", ".safetensors"


class EditFacts(StrictModel):
    """What an edit is, and what it was made for."""

    expert: PartName
    """That is forgotten."""
    number: int = Field(ge=1, le=MOST_PARTS)
    """Place among the edits of the generator, counted from 1."""
    adapter_hash: str
    """SHA-256 of the expert's adapter file, by which the zoo is known without it."""
    generator_hash: str
    """SHA-256 of the tensors of the generator."""
    rank: int = Field(ge=1, le=LARGEST_LAYER)
    layers: tuple[str, ...]
    """Layers that the edit could change."""
    zero: tuple[str, ...]
    """Those among them that it leaves exactly as they were."""
    settings: dict[str, Any]
    """Of the training of the edit."""
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class Edit:
    """Low-rank changes of a network's layers."""

    facts: EditFacts
    factors: Mapping[str, tuple[Tensor, Tensor]]
    """Layer → A (r, in) and B (out, r); layers that stay as they were have none."""

    def to_bytes(self) -> bytes:
        """The file of the edit."""
        named = {
            f"{layer}.lora_{x}": f for layer, pair in self.factors.items() for x, f in zip("AB", pair, strict=True)
        }
        tensors = {name: factor.contiguous() for name, factor in named.items()} or {"none": torch.zeros(1)}
        return save(tensors, {_FACTS: self.facts.model_dump_json()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file of an edit.

        Raises:
            GeneratorError: it is damaged.
        """
        try:
            tensors, metadata = read_tensors(path)
            facts = EditFacts.model_validate_json(metadata[_FACTS])
            changed = [layer for layer in facts.layers if layer not in facts.zero]
            factors = {layer: (tensors[f"{layer}.lora_A"], tensors[f"{layer}.lora_B"]) for layer in changed}
        except (ZooError, KeyError, ValidationError) as error:
            raise GeneratorError(
                f"{cut(path)} holds no edit of a generator ({cut(error, 300)}); remove it, or forget the expert again."
            ) from error
        if facts.expert != path.name.removesuffix(_END):
            raise GeneratorError(f"{cut(path)} is the edit that forgets {facts.expert}; give it that name again.")
        return cls(facts, factors)


class EditableGenerator(TrainedGenerator):
    """A trained generator whose network can be changed so that it forgets an expert.

    Outputs are *codes*: what the network gives, before an adapter is made of it. An instance is a frozen dataclass.
    """

    network: nn.Module
    edits: tuple[EditFacts, ...]
    """Those it was loaded with, in their order."""

    @property
    @abstractmethod
    def known(self) -> tuple[str, ...]:
        """Experts that it was trained on and has not forgotten."""

    @property
    @abstractmethod
    def noise_size(self) -> int:
        """Standard normal numbers that one draw takes; 0 where nothing is drawn."""

    @abstractmethod
    def without(self, expert: str) -> Self:
        """The same generator, which no longer looks the expert up; its network stays.

        Raises:
            GeneratorError: it does not know the expert, or knows no other.
        """

    @abstractmethod
    def with_network(self, network: nn.Module, edits: tuple[EditFacts, ...]) -> Self:
        """The same generator with another network of the same kind, and the edits that this one has."""

    @abstractmethod
    def inputs(self, conditions: Sequence[Condition]) -> Tensor:
        """What the network reads under each condition, (n, i).

        Raises:
            GeneratorError: a condition holds no evidence that the generator reads.
        """

    @abstractmethod
    def drafts(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Codes (n, k) for `inputs` (n, i) and noise (n, `noise_size`); differentiable in the network's weights."""

    @abstractmethod
    def codes(self, adapters: Sequence[Lora]) -> Tensor:
        """The adapters as the network would give them, (n, k).

        Raises:
            GeneratorError: this generator has no code of its own for an adapter.
        """


Editable = TypeVar("Editable", bound=EditableGenerator)
Known = TypeVar("Known", bound=Provenance)


def edited(generator: Editable, folder: Path) -> Editable:
    """A generator as the edits in its folder make it.

    Raises:
        GeneratorError: an edit is damaged, or was made for another generator.
    """
    edits = read_edits(folder)
    if not edits:
        return generator
    known, network = sha256_of(folder / TENSORS), copy.deepcopy(generator.network)
    for edit in edits:
        name = edit.facts.expert
        if edit.facts.generator_hash != known:
            raise GeneratorError(
                f"The edit that forgets {name} in {cut(folder)} was made for other weights "
                f"({edit.facts.generator_hash[:12]}) than lie there ({known[:12]}); remove it, or forget {name} again."
            )
        generator = generator.without(name)
        add_factors(network, edit)
    return generator.with_network(network, tuple(edit.facts for edit in edits))


def add_factors(network: nn.Module, edit: Edit) -> None:
    """Add an edit to the weights of a network, in place.

    Raises:
        GeneratorError: the network has no such layer, or one of another shape.
    """
    layers = linear_layers(network)
    for name, (a, b) in edit.factors.items():
        weight = layers[name].weight if name in layers else torch.empty(1, 0)
        assert isinstance(weight, Tensor)
        if a.ndim != 2 or b.ndim != 2 or (*b.shape, a.shape[1]) != (len(weight), len(a), weight[0].numel()):
            raise GeneratorError(
                f"The edit that forgets {edit.facts.expert} changes a layer {name!r} in a shape that the generator "
                "does not have; remove the edit, or forget the expert again."
            )
        with torch.no_grad():
            weight += (b @ a).view_as(weight)


def row_left_out(manifest: Known, embeddings: Tensor, expert: str) -> tuple[Known, Tensor]:
    """A manifest and the embeddings of its experts (n, c) without one of them.

    Raises:
        GeneratorError: the expert is not among them, or there is no other.
    """
    if expert not in manifest.experts or len(manifest.experts) < 2:
        raise GeneratorError(f"The generator does not know the expert {shown(expert)} beside others.")
    kept = [at for at, name in enumerate(manifest.experts) if name != expert]
    experts = tuple(manifest.experts[at] for at in kept)
    return manifest.model_copy(update={"experts": experts}), embeddings[kept]


def linear_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of a network that an edit can change, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, LINEAR)}


def read_edits(folder: Path) -> tuple[Edit, ...]:
    """The edits in a generator's folder, in the order of their numbers.

    Raises:
        GeneratorError: one is damaged, or there are too many.
    """
    files = edit_files(folder)
    if len(files) > MOST_PARTS:
        raise GeneratorError(
            f"{cut(folder / EDITS)} holds {len(files):,} edits; at most {MOST_PARTS:,} are read. Train the generator "
            "again with `loragen train`."
        )
    return tuple(sorted((Edit.load(path) for path in files), key=lambda edit: (edit.facts.number, edit.facts.expert)))


def edit_files(folder: Path) -> list[Path]:
    """The files of the edits in a generator's folder."""
    return sorted((folder / EDITS).glob(f"[!.]*{_END}"))


def edit_file(folder: Path, expert: str) -> Path:
    """The file of the edit by which the generator of a folder forgets an expert."""
    return folder / EDITS / f"{expert}{_END}"


def write_edit(folder: Path, edit: Edit) -> Path:
    """Write an edit into a generator's folder as the last of its edits, whole or not at all; returns its file.

    It gets the number that follows.

    Raises:
        GeneratorError: it was made for other weights than lie there.
        ConfigError: another process writes there.
    """
    with lock(folder):
        number = 1 + max((other.facts.number for other in read_edits(folder)), default=0)
        if edit.facts.generator_hash != sha256_of(folder / TENSORS):
            raise GeneratorError(
                f"The generator in {cut(folder)} was trained anew meanwhile; forget {edit.facts.expert} once more."
            )
        placed = Edit(edit.facts.model_copy(update={"number": number}), edit.factors)
        path = edit_file(folder, edit.facts.expert)
        add_file(folder, path.relative_to(folder), placed.to_bytes())
    return path


def remove_edit(folder: Path, expert: str) -> None:
    """Remove an edit: the generator is as it was without it.

    Raises:
        GeneratorError: there is none for that expert.
        ConfigError: another process writes there.
    """
    with lock(folder):
        path = edit_file(folder, expert)
        if path not in (there := edit_files(folder)):
            known = ", ".join(each.name.removesuffix(_END) for each in there) or "none"
            raise GeneratorError(f"{cut(folder)} has no edit that forgets {cut(expert)}; it has {known}.")
        path.unlink()
