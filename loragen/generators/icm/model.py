"""ICM-LoRA (Shao et al., IJCAI 2025, arXiv 2501.17635): one convolutional CVAE for the adapters of all tasks.

An adapter X, a vector, goes through twelve strided 1-D convolutions; with the task vector c appended it gives
q(z | X, c) = N(μ, diag σ²), and the mirrored decoder gives X̂ from z and c. Trained is

    mean((X - X̂)²) + 0.005 · KL(q(z | X, c) ‖ N(0, I))

over snapshots of the experts' training, and a new adapter is Dec(z, c) with z drawn from N(0, I).

As published: kernel 7, stride 2, channels 8 … 256 … 8, latent 256, c entering before μ and log σ² and at the decoder's
input only. Ours: one generator for all tasks, each sample against its own target and under its own condition; c is read
from the bare base (`task_vectors`) and holds one part for each kind of evidence, zero where there is none; adapters
enter as coordinates in a shared frame, along the principal directions of the experts (`codec: frame`), or as factors A
and B with a z-score per tensor, as published (`codec: raw`). What pads X to a multiple of 2¹² does not enter the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from safetensors.torch import save
from torch import Tensor, nn

from loragen.adapters.adapter import AdapterSpec, Lora, Site
from loragen.adapters.codec import Codec
from loragen.adapters.frame import Frame
from loragen.adapters.raw_factors import RawFactors
from loragen.adapters.tensor_file import read_tensors
from loragen.conditions.condition import Condition, ConditionCodec, require_evidence
from loragen.conditions.task_vectors import EvidenceKind, Reading
from loragen.config import StrictModel
from loragen.errors import GeneratorError
from loragen.generators.base import Generation
from loragen.generators.edits import EditableGenerator, EditFacts, edited, row_left_out
from loragen.generators.trained import (
    GENERATOR_MANIFEST,
    Gaussian,
    Provenance,
    compact,
    load_network,
    network_tensors,
    reading_folder,
    require_shapes,
)
from loragen.training.objective import Objective
from loragen.training.ranks import Rank, normal_rows
from loragen.values import LARGEST_LAYER, MOST_PARTS, LayerSize
from loragen.zoo.expert_index import in_equal_shares

TENSORS = "generator.safetensors"
FRAME = "frame.safetensors"


class ICMConfig(StrictModel):
    """Architecture and conditioning of ICM-LoRA; defaults of the network and the loss are the published ones."""

    codec: Literal["frame", "raw"] = "frame"
    components: int | None = Field(100, ge=1, le=LARGEST_LAYER)
    """Principal directions kept of the frame's coordinates; null keeps all. Raw factors are never projected."""
    eight_bits: bool = False
    """Store the directions in eight bits: half of the bytes."""
    scale: Literal["pool", "target"] = "pool"
    """Raw factors only. Whose mean and deviation a tensor gets: those of all experts' tensors, or, as in the published
    code, of an adapter trained on the very task, which must then be given."""
    evidence: tuple[Literal["description", "texts", "examples"], ...] = Field(
        ("description", "texts", "examples"), min_length=1
    )
    """Parts of the condition."""
    channels: tuple[LayerSize, ...] = Field(
        (8, 16, 32, 64, 128, 256, 256, 128, 64, 32, 16, 8), min_length=1, max_length=24
    )
    """Of the encoder's blocks, each of which halves the length; the decoder mirrors them."""
    kernel_size: int = Field(7, ge=3, le=MOST_PARTS)
    latent_size: int = Field(256, ge=1, le=LARGEST_LAYER)
    kl_weight: float = Field(0.005, ge=0)
    prior_scale: float = Field(1.0, ge=0)
    """Deviation of z when generating: 1 draws from the prior, 0 takes its mean."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.scale == "target" and self.codec != "raw":
            raise ValueError("'scale: target' goes with 'codec: raw'")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd, or blocks do not halve the length")
        return self


class ICMNetwork(nn.Module):
    """Encoder q(z | X, c) and decoder Dec(z, c)."""

    def __init__(self, size: int, condition_size: int, config: ICMConfig) -> None:
        super().__init__()
        channels, kernel, latent = config.channels, config.kernel_size, config.latent_size
        self.size = size
        stride = 2 ** len(channels)
        self.padded = -(-size // stride) * stride
        self.seed_shape = (channels[-1], self.padded // stride)
        seeds = self.seed_shape[0] * self.seed_shape[1]
        self.encoder = _down((1, *channels), kernel)
        self.features = nn.Linear(seeds, latent)
        self.mean = nn.Linear(latent + condition_size, latent)
        self.log_variance = nn.Linear(latent + condition_size, latent)
        self.seeds = nn.Linear(latent + condition_size, seeds)
        self.decoder = _up((*reversed(channels), channels[0]), kernel)

    def posterior_of(self, x: Tensor, condition: Tensor) -> Gaussian:
        """The posterior q(z | X, c) of codes (b, size) under conditions (b, c)."""
        convolved = self.encoder(F.pad(x, (0, self.padded - self.size))[:, None]).flatten(1)
        features = torch.cat([self.features(convolved), condition], -1)
        return Gaussian(self.mean(features), self.log_variance(features))

    def decode(self, z: Tensor, condition: Tensor) -> Tensor:
        """Dec(z, c), codes (b, size)."""
        seeds = self.seeds(torch.cat([z, condition], -1)).unflatten(-1, self.seed_shape)
        decoded: Tensor = self.decoder(seeds)[:, 0, : self.size]
        return decoded


def _down(channels: Sequence[int], kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv1d(before, after, kernel, stride=2, padding=kernel // 2)]
        layers += [nn.BatchNorm1d(after), nn.LeakyReLU()]
    return nn.Sequential(*layers)


def _up(channels: Sequence[int], kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.ConvTranspose1d(before, after, kernel, stride=2, padding=kernel // 2, output_padding=1)]
        layers += [nn.BatchNorm1d(after), nn.ELU()]
    return nn.Sequential(*layers, nn.Conv1d(channels[-1], 1, kernel, padding=kernel // 2))


@dataclass(frozen=True, eq=False)
class ICMBatch:
    """Codes of adapters (b, k) and the conditions of their tasks (b, c)."""

    x: Tensor
    condition: Tensor

    def to(self, device: torch.device) -> "ICMBatch":
        """The same batch on a device."""
        return ICMBatch(self.x.to(device), self.condition.to(device))

    def part(self, rank: Rank) -> "ICMBatch":
        """The rows of one of several processes."""
        rows = rank.rows(len(self.x))
        return ICMBatch(self.x[rows], self.condition[rows])


class ICMObjective(Objective):
    """Mean of (X - X̂)² over batch and elements, each sample against its own target, + 0.005 · KL(q ‖ N(0, I))."""

    def __init__(self, network: ICMNetwork, kl_weight: float) -> None:
        super().__init__()
        self.network = network
        self.kl_weight = kl_weight

    def loss(self, batch: ICMBatch) -> dict[str, Tensor]:
        """One draw of z a sample."""
        posterior = self.network.posterior_of(batch.x, batch.condition)
        z = posterior.sample(normal_rows(posterior.mean))
        decoded = self.network.decode(z, batch.condition)
        # The published loss compares (b, L) with (b, 1, L): broadcast, every sample is drawn to the whole batch.
        assert decoded.shape == batch.x.shape
        reconstruction = (decoded - batch.x).square().mean()
        kl = posterior.kl(Gaussian.standard(posterior.mean)).mean()
        return {"loss": reconstruction + self.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


class ICMManifest(Provenance):
    """Manifest of a saved ICM-LoRA."""

    kind: Literal["icm"] = "icm"
    reading: Reading
    config: ICMConfig
    factors: dict[str, tuple[int, int, int]] | None = None
    """Site → (out, in, r) where raw factors are generated."""
    epochs: int
    """Of the training, chosen on left-out tasks where ``left_out`` holds values."""
    left_out: tuple[float, ...] = ()
    """Alignment with left-out tasks after each epoch."""

    def spec(self) -> AdapterSpec:
        """The layout of the raw factors."""
        return AdapterSpec(tuple(Site(name, *sizes) for name, sizes in (self.factors or {}).items()))


@dataclass(frozen=True, eq=False)
class ICM(EditableGenerator):
    """A trained ICM-LoRA: everything it needs for an adapter from a task's vectors."""

    manifest: ICMManifest
    network: ICMNetwork
    conditions: ConditionCodec
    codec: Codec
    space: Frame | RawFactors
    embeddings: Tensor
    """Of the experts' descriptions, (n, c): they say how far a task is from what was learnt."""
    edits: tuple[EditFacts, ...] = ()
    name: ClassVar[str] = "icm"
    is_stochastic: ClassVar[bool] = True

    @property
    def config(self) -> ICMConfig:
        """Architecture and conditioning."""
        return self.manifest.config

    @property
    def reading(self) -> Reading:
        """Reading of the task vectors."""
        return self.manifest.reading

    @property
    def evidence(self) -> tuple[EvidenceKind, ...]:
        """Kinds of evidence that they are read from."""
        return self.config.evidence

    @torch.inference_mode()
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Draw z from N(0, I), decode, and express the codes as an adapter.

        Raises:
            GeneratorError: the condition holds no evidence that this generator reads.
        """
        require_evidence(condition, self.config.evidence)
        c = self.conditions.of(condition.task_vectors, self.config.evidence)[None]
        codec = self._codec_for(condition)
        neighbours = in_equal_shares(self.manifest.experts, self.embeddings, condition.embedding)
        generations = []
        for _ in range(num_samples):
            z = self.config.prior_scale * torch.randn(1, self.config.latent_size, generator=rng)
            adapter = self.space.adapter(codec.decode(self.network.decode(z, c)[0]), **self.manifest.peft)
            generations.append(Generation(adapter, neighbours))
        return generations

    def _codec_for(self, condition: Condition) -> Codec:
        if self.config.scale == "pool":
            return self.codec
        if condition.own_adapter is None:
            raise GeneratorError(
                "This generator takes means and deviations from an adapter trained on the very task, as the published "
                "code does, and none was given; give one with --own-adapter, or use a generator with 'scale: pool'."
            )
        return Codec.per_tensor(self.space.coordinates(condition.own_adapter), self.space.sizes)

    @property
    def known(self) -> tuple[str, ...]:
        """Experts that it was trained on."""
        return self.manifest.experts

    @property
    def noise_size(self) -> int:
        """Of z."""
        return self.config.latent_size

    def without(self, expert: str) -> Self:
        """The same generator, which does not name the expert and holds no embedding of its descriptions.

        Raises:
            GeneratorError: it was not trained on the expert, or on no other.
        """
        manifest, embeddings = row_left_out(self.manifest, self.embeddings, expert)
        return replace(self, manifest=manifest, embeddings=embeddings)

    def with_network(self, network: nn.Module, edits: tuple[EditFacts, ...]) -> Self:
        """The same generator with another network."""
        assert isinstance(network, ICMNetwork)
        return replace(self, network=network, edits=edits)

    def inputs(self, conditions: Sequence[Condition]) -> Tensor:
        """The conditions as the network reads them, (n, c).

        Raises:
            GeneratorError: a condition holds no evidence that this generator reads.
        """
        for each in conditions:
            require_evidence(each, self.config.evidence)
        return torch.stack([self.conditions.of(each.task_vectors, self.config.evidence) for each in conditions])

    def drafts(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Codes under conditions, for z from N(0, I)."""
        return self.network.decode(self.config.prior_scale * noise, inputs)

    def codes(self, adapters: Sequence[Lora]) -> Tensor:
        """Codes of adapters.

        Raises:
            GeneratorError: each adapter would be scaled by itself (``scale: target``).
        """
        if self.config.scale == "target":
            raise GeneratorError(
                "This generator scales each adapter by itself ('scale: target'), so that adapters have no codes to "
                "compare; train one with 'scale: pool'."
            )
        return self.codec.encode(torch.stack([self.space.coordinates(adapter) for adapter in adapters]))

    def files(self) -> dict[str, str | bytes]:
        """The generator as the files of its folder; large matrices in bfloat16, the basis in eight bits if so set."""
        tensors = compact(network_tensors(self.network) | self.codec.tensors()) | {
            "conditions.centres": self.conditions.centres,
            "conditions.scales": self.conditions.scales,
            "embeddings": self.embeddings,
        }
        files: dict[str, str | bytes] = {
            GENERATOR_MANIFEST: self.manifest.to_yaml(),
            TENSORS: save({name: value.contiguous() for name, value in tensors.items()}),
        }
        return files | ({FRAME: self.space.to_bytes()} if isinstance(self.space, Frame) else {})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a trained generator.

        Raises:
            GeneratorError: the folder is missing, damaged, or does not hold an ICM-LoRA.
        """
        with reading_folder(folder, "ICM-LoRA"):
            manifest = ICMManifest.from_yaml(folder / GENERATOR_MANIFEST)
            stored, _ = read_tensors(folder / TENSORS)
            tensors = {n: t.float() if t.is_floating_point() else t for n, t in stored.items()}
            codec, kinds = Codec.from_tensors(tensors), len(manifest.config.evidence)
            space = Frame.load(folder / FRAME) if manifest.factors is None else RawFactors(manifest.spec())
            require_shapes(
                tensors,
                {
                    "codec.centre": (sum(space.sizes.values()),),
                    "conditions.centres": (kinds, None),
                    "conditions.scales": (kinds,),
                    "embeddings": (len(manifest.experts), None),
                },
            )
            conditions = ConditionCodec(tensors["conditions.centres"], tensors["conditions.scales"])
            network = load_network(lambda: ICMNetwork(codec.size, conditions.size, manifest.config), tensors)
            return edited(cls(manifest, network, conditions, codec, space, tensors["embeddings"]), folder)

    def with_prior_scale(self, scale: float) -> Self:
        """The same generator with another deviation of z."""
        config = self.config.model_copy(update={"prior_scale": scale})
        return replace(self, manifest=self.manifest.model_copy(update={"config": config}))
