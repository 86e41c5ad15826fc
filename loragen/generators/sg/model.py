"""SG-LoRA (Li et al., CVPR 2026, arXiv 2509.10535): a CVAE with a learned prior, conditioned on a mixture of experts.

For a task whose description embeds to d*, the K nearest experts k with weights α (softmax over cosines) give

    μ*  = Σ αₖ μₖ        σ*² = Σ αₖ σₖ² + Σ αₖ (μₖ - μ*)²        (law of total variance)        c = {μ*, σ*²}

and a CVAE over adapters X is trained with ‖X - X̂‖² + λ KL(q(z | X, c) ‖ p(z | c)), where p(z | c) is learned. A new
adapter is Dec(z, c) with z drawn from p(z | c).

Ours, where the paper is silent or differs: adapters enter as coordinates in a shared frame, centred and projected on
the principal directions of the experts (`Codec`); μ and σ² are taken there, and σ*² enters as a logarithm; a seen
task's own expert never takes part in its condition (leave-one-out), and a random part of the others is left out each
time, so that one task has many conditions; the decoder may add to μ* instead of replacing it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.adapters.codec import Codec
from loragen.adapters.frame import Frame
from loragen.adapters.tensor_file import read_tensors
from loragen.conditions.condition import Condition
from loragen.config import StrictModel
from loragen.errors import GeneratorError, shown
from loragen.generators.base import DescriptionGenerator, Generation
from loragen.generators.edits import EditableGenerator, EditFacts, edited
from loragen.generators.sg.library import MAPPED as MAPPED
from loragen.generators.sg.library import Mixture as Mixture
from loragen.generators.sg.library import SGLibrary as SGLibrary
from loragen.generators.trained import (
    GENERATOR_MANIFEST,
    Gaussian,
    Provenance,
    load_network,
    network_tensors,
    reading_folder,
    require_shapes,
)
from loragen.training.objective import Objective
from loragen.training.ranks import Rank, normal_rows
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES
from loragen.zoo.expert_index import Neighbour, neighbours_in

TENSORS = "generator.safetensors"
FRAME = "frame.safetensors"


class SGConfig(StrictModel):
    """Architecture and conditioning of SG-LoRA; the defaults of K and λ are the paper's."""

    top_k: int = Field(4, ge=1, le=MOST_EXAMPLES)
    temperature: float = Field(0.1, gt=0)
    components: int | None = Field(100, ge=1, le=LARGEST_LAYER)
    """Principal directions kept of the experts' coordinates; null keeps all coordinates."""
    eight_bits: bool = False
    """Store the directions in eight bits: a quarter of the bytes."""
    latent_size: int = Field(32, ge=1, le=LARGEST_LAYER)
    hidden_size: int = Field(256, ge=1, le=LARGEST_LAYER)
    decoder: Literal["direct", "residual"] = "residual"
    """Output of the decoder: the adapter itself, or the difference from μ*."""
    kl_weight: float = Field(1.0, ge=0)
    """λ."""
    prior_scale: float = Field(1.0, ge=0)
    """Factor on the prior's standard deviation when generating: 1 draws from p(z | c), 0 takes its mean."""
    leave_one_out: bool = True
    """Keep a task's own expert out of its condition in training."""
    expert_dropout: float = Field(0.2, ge=0, lt=1)
    """Share of the experts left out at random from each training condition."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """On the hidden layers, in training."""


def mlp(sizes: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear layers of these sizes with ReLU (and dropout) between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers[:-2])


class SGNetwork(nn.Module):
    """Encoder q(z | X, c) and prior p(z | c), two-layer MLPs, and decoder Dec(z, c), a three-layer MLP."""

    def __init__(self, code_size: int, config: SGConfig) -> None:
        super().__init__()
        hidden, latent, condition = config.hidden_size, config.latent_size, 2 * code_size
        self.residual = config.decoder == "residual"
        self.encoder = mlp((code_size + condition, hidden, 2 * latent), config.dropout)
        self.prior = mlp((condition, hidden, 2 * latent), config.dropout)
        self.decoder = mlp((latent + condition, hidden, hidden, code_size), config.dropout)
        if self.residual:  # begin at μ* itself
            last = self.decoder[-1]
            assert isinstance(last, nn.Linear)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def posterior_of(self, x: Tensor, condition: Mixture) -> Gaussian:
        """The posterior q(z | X, c)."""
        return Gaussian(*self.encoder(torch.cat([x, condition.features()], -1)).chunk(2, -1))

    def prior_of(self, condition: Mixture) -> Gaussian:
        """The prior p(z | c)."""
        return Gaussian(*self.prior(condition.features()).chunk(2, -1))

    def decode(self, z: Tensor, condition: Mixture) -> Tensor:
        """Dec(z, c), in codes."""
        decoded: Tensor = self.decoder(torch.cat([z, condition.features()], -1))
        return condition.mean + decoded if self.residual else decoded


@dataclass(frozen=True, eq=False)
class SGBatch:
    """Codes of adapters (b, k) and the conditions of their tasks."""

    x: Tensor
    condition: Mixture

    def to(self, device: torch.device) -> "SGBatch":
        """The same batch on a device."""
        return SGBatch(self.x.to(device), Mixture(self.condition.mean.to(device), self.condition.variance.to(device)))

    def part(self, rank: Rank) -> "SGBatch":
        """The rows of one of several processes."""
        rows, condition = rank.rows(len(self.x)), self.condition
        return SGBatch(self.x[rows], Mixture(condition.mean[rows], condition.variance[rows]))


class SGObjective(Objective):
    """‖X - X̂‖² + λ KL(q ‖ p), averaged over the batch, each sample against its own target."""

    def __init__(self, network: SGNetwork, kl_weight: float) -> None:
        super().__init__()
        self.network = network
        self.kl_weight = kl_weight

    def loss(self, batch: SGBatch) -> dict[str, Tensor]:
        """One draw of z a sample."""
        posterior = self.network.posterior_of(batch.x, batch.condition)
        prior = self.network.prior_of(batch.condition)
        z = posterior.sample(normal_rows(posterior.mean))
        decoded = self.network.decode(z, batch.condition)
        assert decoded.shape == batch.x.shape
        reconstruction = (decoded - batch.x).square().sum(-1).mean()
        kl = posterior.kl(prior).mean()
        return {"loss": reconstruction + self.kl_weight * kl, "reconstruction": reconstruction, "kl": kl}


class SGManifest(Provenance):
    """Manifest of a saved SG-LoRA."""

    kind: Literal["sg"] = "sg"
    config: SGConfig


@dataclass(frozen=True, eq=False)
class SG(DescriptionGenerator, EditableGenerator):
    """A trained SG-LoRA: everything it needs for an adapter from a description's embedding."""

    manifest: SGManifest
    network: SGNetwork
    library: SGLibrary
    codec: Codec
    frame: Frame
    exclude: frozenset[str] = frozenset()
    """Experts that may not serve, by licence for example."""
    edits: tuple[EditFacts, ...] = ()
    name: ClassVar[str] = "sg"
    is_stochastic: ClassVar[bool] = True

    @property
    def config(self) -> SGConfig:
        """Architecture and conditioning."""
        return self.manifest.config

    @torch.inference_mode()
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Draw z from p(z | c), decode, and express the codes as an adapter."""
        neighbours = self.neighbours(condition)
        by_id = {neighbour.id: neighbour.weight for neighbour in neighbours}
        mixture = self.library.mixture_of(by_id)
        prior = self.network.prior_of(mixture)
        generations = []
        for _ in range(num_samples):
            noise = torch.randn(prior.mean.shape, generator=rng)
            code = self.network.decode(prior.sample(noise, scale=self.config.prior_scale), mixture)
            adapter = self.frame.adapter(self.codec.decode(code), **self.manifest.peft)
            generations.append(Generation(adapter, neighbours))
        return generations

    def neighbours(self, condition: Condition) -> tuple[Neighbour, ...]:
        """The K experts of the condition."""
        return neighbours_in(
            self.library.index,
            condition.embedding,
            self.config.top_k,
            temperature=self.config.temperature,
            exclude=self.exclude,
        )

    def drawing_on(self, *, top_k: int | None, exclude: frozenset[str]) -> "SG":
        """The same generator with another K, unless `None`, and without some experts."""
        config = self.config if top_k is None else self.config.model_copy(update={"top_k": top_k})
        return replace(
            self, manifest=self.manifest.model_copy(update={"config": config}), exclude=self.exclude | exclude
        )

    @property
    def known(self) -> tuple[str, ...]:
        """Experts of its library, without those that it has forgotten."""
        gone = {edit.expert for edit in self.edits}
        return tuple(name for name in self.library.ids if name not in gone)

    @property
    def noise_size(self) -> int:
        """Of z."""
        return self.config.latent_size

    def without(self, expert: str) -> Self:
        """The same generator, whose library has no row of the expert: no code, no statistics and no embedding.

        Raises:
            GeneratorError: the library does not know the expert, or knows no other.
        """
        if expert not in self.known or len(self.known) < 2:
            raise GeneratorError(f"The generator does not know the expert {shown(expert)} beside others.")
        if self.library.lists is not None:  # which would have to be made anew
            return replace(self, exclude=self.exclude | {expert})
        manifest = self.manifest.model_copy(
            update={"experts": tuple(name for name in self.manifest.experts if name != expert)}
        )
        return replace(self, manifest=manifest, library=self.library.without(expert))

    def with_network(self, network: nn.Module, edits: tuple[EditFacts, ...]) -> Self:
        """The same generator with another network."""
        assert isinstance(network, SGNetwork)
        return replace(self, network=network, edits=edits)

    def inputs(self, conditions: Sequence[Condition]) -> Tensor:
        """The mixtures' means and variances, (n, 2 k)."""
        mixtures = [self.library.mixture_of({n.id: n.weight for n in self.neighbours(each)}) for each in conditions]
        return torch.stack([torch.cat([mixture.mean, mixture.variance]) for mixture in mixtures])

    def drafts(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Codes under mixtures, for z from p(z | c)."""
        mixture = Mixture(*inputs.chunk(2, -1))
        return self.network.decode(self.network.prior_of(mixture).sample(noise, scale=self.config.prior_scale), mixture)

    def codes(self, adapters: Sequence[Lora]) -> Tensor:
        """Codes of adapters."""
        return self.codec.encode(torch.stack([self.frame.coordinates(adapter) for adapter in adapters]))

    def files(self) -> dict[str, str | bytes]:
        """The generator as the files of its folder."""
        tensors = network_tensors(self.network)
        tensors |= self.codec.tensors()
        tensors |= self.library.tensors()
        return {
            GENERATOR_MANIFEST: self.manifest.to_yaml(),
            TENSORS: save({name: value.contiguous() for name, value in tensors.items()}),
            FRAME: self.frame.to_bytes(),
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a trained generator.

        Raises:
            GeneratorError: the folder is missing, damaged, or does not hold an SG-LoRA.
        """
        with reading_folder(folder, "SG-LoRA"):
            manifest = SGManifest.from_yaml(folder / GENERATOR_MANIFEST)
            tensors, _ = read_tensors(folder / TENSORS, mapped=() if manifest.experts else MAPPED)
            codec, frame = Codec.from_tensors(tensors), Frame.load(folder / FRAME)
            network = load_network(lambda: SGNetwork(codec.size, manifest.config), tensors)
            require_shapes(tensors, {"codec.centre": (sum(frame.sizes.values()),)})
            library = SGLibrary.from_tensors(tensors, manifest.experts, codec.size)
            return edited(cls(manifest, network, library, codec, frame), folder)
