"""Shared by all trained generators: origin, folder, training settings and latent Gaussians."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
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
from loragen.errors import ConfigError, GeneratorError, ZooError
from loragen.generators.base import Generator
from loragen.zoo.zoo import Zoo

GENERATOR_MANIFEST = "generator.yaml"
_REMOVED = ("objective", "polish")
"""Keys of train configs that settings of a removed training may be left in."""

Network = TypeVar("Network", bound=nn.Module)


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
    """Tensors as they are stored: matrices in bfloat16, and vectors as they are."""
    return {name: value.bfloat16() if value.ndim > 1 else value for name, value in tensors.items()}


def rounded(network: Network) -> Network:
    """A trained network for generating, on the CPU, its matrices as precise as `compact` will store them."""
    network.cpu().eval().requires_grad_(False)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            parameter.copy_(parameter.bfloat16())
    return network


def load_network(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put what `network_tensors` named back into a network, frozen for generating."""
    network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    network.eval().requires_grad_(False)


@contextmanager
def reading_folder(folder: Path, kind: str) -> Iterator[None]:
    """Turn the faults of a damaged generator's folder into a GeneratorError that names it."""
    try:
        yield
    except (ConfigError, ZooError, OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise GeneratorError(
            f"{folder} does not hold a whole {kind} generator ({error}); train it again with `loragen train`."
        ) from error


class TrainConfig(StrictModel):
    """Settings of a training that all generators share."""

    zoo: Path
    """Relative to where the command runs."""
    splits: tuple[str, ...] = ("experts",)
    """Splits of the zoo to learn from."""
    encoder: str
    """Embeds descriptions; a generator and its library share one."""
    out: Path
    epochs: int = Field(20, ge=1)
    steps_per_epoch: int = Field(100, ge=1)
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    seed: int = 0

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
