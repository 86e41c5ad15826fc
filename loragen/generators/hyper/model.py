"""A hypernetwork: from what is known of a task to the coordinates of its adapter, at once.

For a task with vectors q, one for each kind of evidence (zero where there is none, with a flag for each), coordinates
x₀ of the mean of the zoo's folds (without folds, of the adapter m for all tasks) and, at each site s, a learned basis
Vₛ of a few rows,

    xₛ = gₛ(q) x₀ₛ + Vₛᵀ cₛ(q)

with gates g and coefficients c that are linear in the features of q by an MLP. The basis begins with the top right
singular vectors of the experts' offsets at that site (from where each began), each times the root mean square of the
experts' codes, so that a coefficient of order 1 is an offset of an expert's size. Coefficients begin at 0 and gates at
1: before training all tasks get x₀. Without ``residual`` there is no x₀: the first row of Vₛ begins as x₀ and the
experts' mean offset, the others hold how offsets differ from that mean, and before training all tasks get the first
row.

After HyperNetworks (Ha et al. 2017), with a task's description for the input as in Text-to-LoRA (Charakorn et al.
2025); the basis and the start from an adapter that has not seen the task are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.adapters.tensor_file import read_tensors
from loragen.conditions.condition import Condition, ConditionCodec, require_evidence
from loragen.conditions.task_vectors import EvidenceKind, Reading
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.generators.base import Generation
from loragen.generators.edits import EditableGenerator, EditFacts, edited, row_left_out
from loragen.generators.hyper.task_loss import TaskBatch
from loragen.generators.trained import (
    GENERATOR_MANIFEST,
    Provenance,
    compact,
    load_network,
    network_tensors,
    reading_folder,
    require_shapes,
)
from loragen.values import LARGEST_LAYER
from loragen.zoo.expert_index import in_equal_shares

TENSORS = "generator.safetensors"
FRAME = "frame.safetensors"

_TINY = torch.finfo(torch.float32).tiny
"""In place of zero, where a row of the basis has no length."""


class HyperConfig(StrictModel):
    """Evidence that the hypernetwork reads, and its architecture."""

    evidence: tuple[EvidenceKind, ...] = Field(("description", "labels", "texts", "examples"), min_length=1)
    basis_size: int = Field(16, ge=1, le=LARGEST_LAYER)
    """Rows of Vₛ."""
    hidden_size: int = Field(256, ge=1, le=LARGEST_LAYER)
    dropout: float = Field(0.1, ge=0, lt=1)
    """Of the MLP's features, in training."""
    gated: bool = True
    """Learn the strength of the start, site by site; otherwise it is 1."""
    residual: bool = True
    """Add to an adapter for all tasks; otherwise adapters begin at nothing."""


class HyperNetwork(nn.Module):
    """MLP, heads and basis."""

    scales: Tensor

    def __init__(self, width: int, sizes: tuple[int, ...], config: HyperConfig) -> None:
        super().__init__()
        condition, hidden = len(config.evidence) * (width + 1), config.hidden_size
        self.sizes = list(sizes)
        self.is_residual = config.residual
        self.body = nn.Sequential(
            nn.LayerNorm(condition),
            nn.Linear(condition, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
        )
        self.coefficients = _zero(nn.Linear(hidden, len(sizes) * config.basis_size))
        self.gates = _zero(nn.Linear(hidden, len(sizes))) if config.residual and config.gated else None
        # Rows of a root mean square of 1 and their scales apart, so that one learning rate suits basis and MLP.
        self.basis = nn.Parameter(torch.zeros(config.basis_size, sum(sizes)))
        self.register_buffer("scales", torch.zeros(len(sizes) * config.basis_size))

    @torch.no_grad()
    def begin(self, offsets: Tensor, start: Tensor) -> None:
        """Take the basis from the experts' offsets (n, d) from a start (d,).

        Raises:
            ConfigError: the experts do not span as many directions as the basis has rows.
        """
        rows = len(self.basis)
        most = min(len(offsets), *self.sizes)
        if rows > most:
            raise ConfigError(
                f"A basis of {rows} directions a site was asked for, but {len(offsets)} experts of {min(self.sizes)} "
                f"coordinates a site span at most {most}; set 'hyper.basis_size' to {most} or less."
            )
        places = zip(torch.split(offsets, self.sizes, 1), torch.split(start, self.sizes), strict=True)
        parts = [self._rows(*place) for place in places]
        scales = torch.stack([part.square().mean(1).sqrt() for part in parts])  # (sites, m)
        units = [part / s[:, None].clamp(min=_TINY) for part, s in zip(parts, scales, strict=True)]
        self.basis.copy_(torch.cat(units, 1))
        self.scales.copy_(scales.flatten())
        if not self.is_residual:
            self.coefficients.bias.view_as(scales)[:, 0] = 1

    def _rows(self, offsets: Tensor, start: Tensor) -> Tensor:
        """Vₛ before training, (m, size), from offsets (n, size) and a start (size,)."""
        if self.is_residual:
            return _principal(offsets, len(self.basis))
        mean = offsets.mean(0)
        return torch.cat([(start + mean)[None], _principal(offsets - mean, len(self.basis) - 1)])

    def forward(self, batch: TaskBatch) -> Tensor:
        """Coordinates (d,) for the batch's task."""
        return self.coordinates(batch.query, batch.present, batch.start)

    def coordinates(self, query: Tensor, present: Tensor, start: Tensor) -> Tensor:
        """Coordinates (..., d) from queries (..., kinds, h), which of their kinds there are (..., kinds), and x₀ (d,).

        What a query holds where there is nothing does not matter.
        """
        features = self.body(torch.cat([(query * present[..., None]).flatten(-2), present.to(query.dtype)], -1))
        scaled = (self.coefficients(features) * self.scales).unflatten(-1, (len(self.sizes), -1))
        parts = zip(scaled.unbind(-2), torch.split(self.basis, self.sizes, 1), strict=True)
        offset = torch.cat([codes @ rows for codes, rows in parts], -1)
        if not self.is_residual:
            return offset
        if self.gates is None:
            return start + offset
        gates: Tensor = 2 * torch.sigmoid(self.gates(features))
        sizes = torch.tensor(self.sizes, device=gates.device)
        return torch.repeat_interleave(gates, sizes, dim=-1, output_size=sum(self.sizes)) * start + offset


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _principal(points: Tensor, rows: int) -> Tensor:
    """The top right singular vectors of points (n, d), each times the points' root mean square along it, (rows, d)."""
    _, singular, right = torch.linalg.svd(points, full_matrices=False)
    principal: Tensor = singular[:rows, None] * right[:rows] / len(points) ** 0.5
    return principal


class HyperManifest(Provenance):
    """Manifest of a saved hypernetwork."""

    kind: Literal["hyper"] = "hyper"
    reading: Reading
    config: HyperConfig
    epochs: int
    """Of the last training, chosen on left-out tasks where there were any."""
    worth: tuple[float, ...] = ()
    """On those, before it and after each of its epochs: score, plus what another task's description costs of it."""
    more_tasks: tuple[str, ...] = ()
    """Tasks without experts whose texts it has learnt from."""
    told: bool = False
    """True if its adapters want the task's description in their prompts."""


@dataclass(frozen=True, eq=False)
class Hyper(EditableGenerator):
    """A trained hypernetwork with the adapter that it starts from."""

    manifest: HyperManifest
    network: HyperNetwork
    start: Tensor
    """Coordinates of the one adapter for all tasks, (d,); zero where there is none."""
    conditions: ConditionCodec
    frame: Frame
    embeddings: Tensor
    """Of the experts' descriptions, (n, c): they say how far a task is from what was learnt."""
    edits: tuple[EditFacts, ...] = ()
    name: ClassVar[str] = "hyper"
    is_stochastic: ClassVar[bool] = False

    @property
    def reading(self) -> Reading:
        """Reading of the task vectors."""
        return self.manifest.reading

    @property
    def evidence(self) -> tuple[EvidenceKind, ...]:
        """Kinds of evidence that they are read from."""
        return self.manifest.config.evidence

    @torch.inference_mode()
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Generate the adapter from the task vectors; nothing is drawn at random.

        Raises:
            GeneratorError: the condition holds no evidence that this generator reads.
        """
        kinds = self.evidence
        require_evidence(condition, kinds)
        query = self.conditions.of(condition.task_vectors, kinds).reshape(len(kinds), -1)
        present = torch.tensor([kind in condition.task_vectors for kind in kinds])
        coordinates = self.network.coordinates(query, present, self.start)
        adapter = self.frame.adapter(coordinates, **self.manifest.peft)
        neighbours = in_equal_shares(self.manifest.experts, self.embeddings, condition.embedding)
        return [Generation(adapter, neighbours)] * num_samples

    @property
    def known(self) -> tuple[str, ...]:
        """Experts that it was trained on."""
        return self.manifest.experts

    @property
    def noise_size(self) -> int:
        """Nothing is drawn."""
        return 0

    def without(self, expert: str) -> Self:
        """The same generator, which does not name the expert and holds no embedding of its descriptions.

        Raises:
            GeneratorError: it was not trained on the expert, or on no other.
        """
        manifest, embeddings = row_left_out(self.manifest, self.embeddings, expert)
        return replace(self, manifest=manifest, embeddings=embeddings)

    def with_network(self, network: nn.Module, edits: tuple[EditFacts, ...]) -> Self:
        """The same generator with another network."""
        assert isinstance(network, HyperNetwork)
        return replace(self, network=network, edits=edits)

    def inputs(self, conditions: Sequence[Condition]) -> Tensor:
        """Queries and which of their kinds there are, one after the other, (n, kinds · h + kinds).

        Raises:
            GeneratorError: a condition holds no evidence that this generator reads.
        """
        for each in conditions:
            require_evidence(each, self.evidence)
        queries = torch.stack([self.conditions.of(each.task_vectors, self.evidence) for each in conditions])
        present = torch.tensor([[kind in each.task_vectors for kind in self.evidence] for each in conditions])
        return torch.cat([queries, present.to(queries.dtype)], 1)

    def drafts(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Coordinates for queries; nothing is drawn."""
        kinds = len(self.evidence)
        query, present = inputs[:, :-kinds].reshape(len(inputs), kinds, -1), inputs[:, -kinds:] > 0
        return self.network.coordinates(query, present, self.start.to(inputs.device))

    def codes(self, adapters: Sequence[Lora]) -> Tensor:
        """Coordinates of adapters."""
        return torch.stack([self.frame.coordinates(adapter) for adapter in adapters])

    def files(self) -> dict[str, str | bytes]:
        """The generator as the files of its folder; the matrices in bfloat16."""
        tensors = compact(network_tensors(self.network)) | {
            "start": self.start,
            "conditions.centres": self.conditions.centres,
            "conditions.scales": self.conditions.scales,
            "embeddings": self.embeddings,
        }
        return {
            GENERATOR_MANIFEST: self.manifest.to_yaml(),
            TENSORS: save({name: value.contiguous() for name, value in tensors.items()}),
            FRAME: self.frame.to_bytes(),
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a trained generator.

        Raises:
            GeneratorError: the folder is missing, damaged, or does not hold a hypernetwork.
        """
        with reading_folder(folder, "hyper"):
            manifest, frame = HyperManifest.from_yaml(folder / GENERATOR_MANIFEST), Frame.load(folder / FRAME)
            tensors, _ = read_tensors(folder / TENSORS)
            sizes, kinds = tuple(frame.sizes.values()), len(manifest.config.evidence)
            require_shapes(
                tensors,
                {
                    "start": (sum(sizes),),
                    "conditions.centres": (kinds, None),
                    "conditions.scales": (kinds,),
                    "embeddings": (len(manifest.experts), None),
                },
            )
            conditions = ConditionCodec(tensors["conditions.centres"], tensors["conditions.scales"])
            network = load_network(lambda: HyperNetwork(conditions.centres.shape[-1], sizes, manifest.config), tensors)
            generator = cls(manifest, network, tensors["start"], conditions, frame, tensors["embeddings"])
            return edited(generator, folder)
