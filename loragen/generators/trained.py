"""Shared by all trained generators: origin, folder, training settings and latent Gaussians."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from torch import Tensor, nn

from loragen.conditions.text_encoder import TextEncoder
from loragen.config import StrictModel
from loragen.errors import GeneratorError, LoragenError, ZooError, cut
from loragen.generators.base import Generator
from loragen.paths import read_capped
from loragen.training.devices import Devices, Precision, Strategy
from loragen.training.ranks import Rank
from loragen.training.schedule import Schedule
from loragen.values import MOST_EXAMPLES, MOST_PARTS, MOST_STEPS, Seed
from loragen.zoo.zoo import Zoo

GENERATOR_MANIFEST = "generator.yaml"
_REMOVED = ("objective", "polish")
"""Keys of train configs that settings of a removed training may be left in."""

HARDWARE = ("devices", "strategy", "precision")
"""Keys of train configs that say where it is trained."""

Network = TypeVar("Network", bound=nn.Module)


class Updated(StrictModel):
    """How a generator was brought up to date."""

    strategy: str
    options: dict[str, Any] = Field(default_factory=dict)
    of: str = ""
    """SHA-256 of the tensors of the generator that it went on from; empty where it was trained anew."""
    seconds: float = Field(0.0, ge=0)
    """Of the training."""
    no_longer_there: tuple[str, ...] = ()
    """Experts that the generator before was trained on and that the zoo no longer held; it may know them yet."""


class Provenance(StrictModel):
    """Origin of a trained generator: base, experts and text encoder."""

    base: str
    base_hash: str
    task_type: str | None
    fan_in_fan_out: bool = False
    zoo: str
    zoo_hash: str
    """Fingerprint of the experts it was trained on."""
    encoder: str
    encoder_hash: str
    experts: tuple[str, ...]
    versions: dict[str, str]
    updated: Updated | None = None
    """None where it was trained and never brought up to date."""

    @model_validator(mode="before")
    @classmethod
    def _reads_older_manifests(cls, values: Any) -> Any:
        """Drop the key of a training that was given up (tag ``search-2026-11``); the weights say all there is."""
        return (
            {key: value for key, value in values.items() if key != "polished"} if isinstance(values, dict) else values
        )

    @classmethod
    def facts(cls, zoo: Zoo, encoder: TextEncoder) -> dict[str, Any]:
        """Values of these fields for a generator trained on a zoo."""
        settings = zoo.adapter(zoo.ids[0]).settings
        return {
            "base": zoo.manifest.base,
            "base_hash": zoo.manifest.base_hash,
            "task_type": settings.task_type,
            "fan_in_fan_out": settings.fan_in_fan_out,
            "zoo": zoo.manifest.name,
            "zoo_hash": zoo.fingerprint,
            "encoder": encoder.name,
            "encoder_hash": encoder.fingerprint,
            "experts": zoo.ids,
            "versions": {name: version(name) for name in ("loragen", "torch", "lightning")},
        }

    @property
    def peft(self) -> dict[str, Any]:
        """Facts of the base in the settings of a generated adapter."""
        return {"base": self.base, "task_type": self.task_type, "fan_in_fan_out": self.fan_in_fan_out}


class TrainedGenerator(Generator):
    """A generator that was trained on a zoo and lives in a folder of its own."""

    manifest: Provenance

    @abstractmethod
    def files(self) -> dict[str, str | bytes]:
        """The generator as the files of its folder."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Read a trained generator.

        Raises:
            GeneratorError: the folder is missing, damaged, or holds a generator of another kind.
        """


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """A network's state under the names that a generator's file gives it."""
    return {f"network.{name}": value for name, value in network.state_dict().items()}


def compact(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are stored: matrices of floats in bfloat16, and vectors and whole numbers as they are."""
    return {
        n: value.bfloat16() if value.ndim > 1 and value.is_floating_point() else value for n, value in tensors.items()
    }


def rounded(network: Network) -> Network:
    """A trained network for generating, on the CPU, its matrices as precise as `compact` will store them."""
    network.cpu().eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.bfloat16())
    return network


def load_network(make: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """A network of what `network_tensors` named, frozen for generating.

    It is made without memory and takes the tensors as they are, so that no config asks for more than the file holds.

    Raises:
        RuntimeError: names or shapes are not the network's.
    """
    with torch.device("meta"):
        network = make()
    wanted = network.state_dict()
    given = {n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")}
    # Copied: arithmetic rounds in other ways over a mapped file, where tensors are not aligned.
    state = {
        name: value.to(wanted[name].dtype, copy=True) if name in wanted else value for name, value in given.items()
    }
    network.load_state_dict(state, assign=True)
    network.eval().requires_grad_(False)
    return network


def require_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]]) -> None:
    """Refuse tensors that are missing or of other shapes; `None` stands for any size.

    Raises:
        ZooError: one is.
    """
    for name, shape in shapes.items():
        met = tuple(tensors[name].shape) if name in tensors else ()
        if len(met) != len(shape) or any(size not in (None, there) for size, there in zip(shape, met, strict=True)):
            raise ZooError(f"{name} has the shape {met}, where {shape} was wanted")


@contextmanager
def reading_folder(folder: Path, kind: str, *, what: str = "generator") -> Iterator[None]:
    """Turn the faults of a damaged generator's folder into a GeneratorError that names it."""
    try:
        yield
    except (LoragenError, OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise GeneratorError(
            f"{cut(folder)} does not hold a whole {kind} {what} ({cut(error, 400)}); train it again with `loragen "
            "train`."
        ) from error


def check_encoder(manifest: Provenance, encoder: TextEncoder, *, what: str = "The generator") -> None:
    """Refuse what was trained with another text encoder.

    Raises:
        GeneratorError: it was; ``what`` is what the message calls it.
    """
    if manifest.encoder_hash != encoder.fingerprint:
        raise GeneratorError(
            f"{what} was trained with the text encoder {manifest.encoder} (hash {manifest.encoder_hash}), but "
            f"{encoder.name} has the hash {encoder.fingerprint}; use the former, or train it again."
        )


def kept_values(path: Path | None) -> dict[str, Any]:
    """What an unfinished training kept as JSON, by name; empty where there is nothing yet.

    Raises:
        GeneratorError: the file is damaged.
    """
    if path is None or not path.exists():
        return {}
    try:
        values = json.loads(read_capped(path, 100_000_000, kind="state"))
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
    except (ValueError, RecursionError) as error:
        raise GeneratorError(
            f"The unfinished training in {cut(path.parent)} is damaged at {path.name} ({cut(error)}); remove that "
            "folder, and the training begins anew."
        ) from error
    return values


class TrainConfig(StrictModel):
    """Settings of a training that all generators share."""

    zoo: Path
    """Relative to where the command runs."""
    splits: tuple[str, ...] = ("experts",)
    """Splits of the zoo to learn from."""
    encoder: str
    """Embeds descriptions; a generator and its library share one."""
    out: Path
    epochs: int = Field(20, ge=1, le=MOST_STEPS)
    steps_per_epoch: int = Field(100, ge=1, le=MOST_STEPS)
    batch_size: int = Field(64, ge=1, le=MOST_EXAMPLES)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    seed: Seed = 0
    devices: int = Field(1, ge=1, le=MOST_PARTS)
    """Of each machine, a process each: CUDA GPUs where torch finds any, else its processor. Each takes its rows of
    every batch, so that ``batch_size`` and what is learnt do not depend on their number."""
    strategy: Strategy = "auto"
    """``ddp``: each device holds the whole network; ``fsdp``: a part of each layer."""
    precision: Precision = "32-true"

    @model_validator(mode="after")
    def _divides_batches(self) -> Self:
        _ = self.hardware
        Rank(0, self.devices).rows(self.batch_size)
        return self

    @property
    def schedule(self) -> Schedule:
        """Of the training."""
        return Schedule(self.epochs, self.steps_per_epoch, self.learning_rate, weight_decay=self.weight_decay)

    @property
    def hardware(self) -> Devices:
        """Where it is trained."""
        return Devices(self.devices, self.strategy, self.precision)

    @model_validator(mode="before")
    @classmethod
    def _names_a_removed_training(cls, values: Any) -> Any:
        given = values if isinstance(values, dict) else {}
        if left := [key for key in _REMOVED if key in given and key not in cls.model_fields]:
            raise ValueError(
                f"unknown key {' and '.join(left)}: training on task loss was removed (git tag search-2026-11); leave "
                "it out"
            )
        return values

    @property
    def steps_of_a_training(self) -> int:
        """Optimiser steps of one training."""
        return self.epochs * self.steps_per_epoch

    @property
    @abstractmethod
    def steps(self) -> int:
        """Optimiser steps of the whole run."""


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A diagonal Gaussian, (..., latent)."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def standard(cls, like: Tensor) -> Self:
        """N(0, I) of the shape and on the device of ``like``."""
        return cls(torch.zeros_like(like), torch.zeros_like(like))

    def sample(self, noise: Tensor, *, scale: float = 1.0) -> Tensor:
        """The point at standard normal ``noise``."""
        return self.mean + scale * noise * (0.5 * self.log_variance).exp()

    def kl(self, other: "Gaussian") -> Tensor:
        """KL(self ‖ other), in nats, summed over the latent dimension."""
        ratio = (self.log_variance - other.log_variance).exp()
        shift = (self.mean - other.mean).square() / other.log_variance.exp()
        return 0.5 * (ratio + shift - 1 + other.log_variance - self.log_variance).sum(-1)


def subfolder(folder: Path | None, name: str) -> Path | None:
    """A folder for one part of a run, where its state is kept at all."""
    return None if folder is None else folder / name
