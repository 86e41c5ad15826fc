"""Attention over experts: which adapters to merge, and how strongly, learnt from what the merge does to other tasks.

For a task with vectors qₖ, one for each kind of evidence k there is, and experts i with vectors eᵢₖ and coordinates xᵢ,

    sᵢ = Σₖ aₖ cos(Mₖ qₖ, Mₖ eᵢₖ)    wᵢ = softmax(sᵢ / τ(q))    x = g₀ ⊙ x₀ + g₁ ⊙ Σ wᵢ (xᵢ - mᵢ)

with mᵢ where expert i began (one adapter for all tasks, or a fold), the mean x₀ of the zoo's folds (without folds that
adapter), a metric Mₖ = I + UₖVₖ of low rank, shares aₖ of the evidence that is present, a temperature τ and two gates a
site. Before training Mₖ = I and g = 1: a softmax merge by similarity, the cheap rival. A gate g₀ below 1 stays nearer
to the base, g₁ says how far from x₀ to go, and a high temperature stays near the mean of the experts. The weights are
fixed once a task is described, so what comes out is one plain LoRA. Trained through the frozen base (`task_loss`), on
tasks that neither experts nor the fold that stands for x₀ have seen; after AdapterFusion (Pfeiffer et al. 2021), with
tasks for tokens.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import load_file, save
from torch import Tensor, nn

from loragen.config import StrictModel
from loragen.errors import GeneratorError
from loragen.frame import Frame
from loragen.generators.base import Condition, Generation, Neighbour
from loragen.generators.conditions import ConditionCodec, require_evidence
from loragen.generators.task_loss import TaskBatch
from loragen.generators.trained import (
    MANIFEST,
    Provenance,
    TrainedGenerator,
    load_network,
    network_tensors,
    reading_folder,
)
from loragen.task_vectors import Evidence, Reading

TENSORS = "generator.safetensors"
FRAME = "frame.safetensors"

_SHARPEST = 10.0
"""Bound of -log τ(q): beyond it the nearest expert has all the weight, and exp would soon overflow."""


class AttentionConfig(StrictModel):
    """What attention reads, and where it begins."""

    evidence: tuple[Evidence, ...] = Field(("description", "labels", "texts", "examples"), min_length=1)
    metric_rank: int = Field(16, ge=1)
    """Rank of UₖVₖ."""
    temperature: float = Field(0.2, gt=0)
    """τ before training."""
    gates: Literal["none", "site", "task"] = "site"
    """Whether strengths are learnt: not at all (they are 1), one for all tasks at each site, or by what is known of a
    task, which learns the experts' tasks by heart (`benchmarks/generalisation.py`)."""


@dataclass(frozen=True, eq=False)
class Experts:
    """What is attended to."""

    keys: Tensor
    """Task vectors as `ConditionCodec` encodes them, (n, kinds, h)."""
    offsets: Tensor
    """Coordinates in the frame, from those that each of them began at, (n, d)."""
    start: Tensor
    """Coordinates x₀ that a merge is added to, (d,)."""


class AttentionNetwork(nn.Module):
    """Metric, shares, temperature and gates: some ten thousand numbers, beside the experts themselves."""

    def __init__(self, width: int, sizes: tuple[int, ...], config: AttentionConfig) -> None:
        super().__init__()
        kinds = len(config.evidence)
        self.sizes = sizes
        self.down = nn.Parameter(torch.randn(kinds, config.metric_rank, width) / width**0.5)
        self.up = nn.Parameter(torch.zeros(kinds, width, config.metric_rank))
        self.importance = nn.Parameter(torch.zeros(kinds))
        self.log_temperature = nn.Parameter(torch.tensor(config.temperature).log())
        self.sharpness = nn.Parameter(torch.zeros(kinds, width))
        features = 1 + kinds * width if config.gates == "task" else 1
        self.gates = nn.Parameter(torch.zeros(2, len(sizes), features), requires_grad=config.gates != "none")

    def weights(self, query: Tensor, present: Tensor, keys: Tensor, allowed: Tensor) -> Tensor:
        """Shares of the experts, (n,), from a query (kinds, h), which of its parts there are, and who may serve.

        They sum to 1: without any evidence all who may serve have the same share, and if nobody may all have 0.
        """
        similarity = (self._placed(query) * self._placed(keys)).sum(-1)  # (n, kinds)
        shares = _masked_softmax(self.importance, present)
        sharpness = (self.sharpness * query).sum(-1) @ shares - self.log_temperature
        scores = (similarity * shares).sum(-1) * sharpness.clamp(max=_SHARPEST).exp()
        return _masked_softmax(scores, allowed)

    def _placed(self, vectors: Tensor) -> Tensor:
        moved = torch.einsum("krh,...kh->...kr", self.down, vectors)
        return F.normalize(vectors + torch.einsum("khr,...kr->...kh", self.up, moved), dim=-1)

    def merge(self, weights: Tensor, query: Tensor, present: Tensor, offsets: Tensor, start: Tensor) -> Tensor:
        """Coordinates (d,) of the gated merge."""
        known = (query * present[:, None]).flatten() / present.sum().clamp(min=1)
        features = torch.cat([query.new_ones(1), known])[: self.gates.shape[-1]]
        gates = 2 * torch.sigmoid(self.gates @ features)
        sizes = torch.tensor(self.sizes, device=gates.device)
        stay, go = torch.repeat_interleave(gates, sizes, dim=1, output_size=sum(self.sizes))
        merged: Tensor = stay * start + go * (weights @ offsets)
        return merged


def _masked_softmax(values: Tensor, mask: Tensor) -> Tensor:
    """Softmax over the values (n,) where the mask is true, and 0 elsewhere; with -inf it would be NaN if none is."""
    return values.masked_fill(~mask, torch.finfo(values.dtype).min).softmax(0) * mask


class AttentionMaker(nn.Module):
    """The network and what it attends to, as `task_loss.TaskObjective` wants it: from a batch to coordinates."""

    keys: Tensor
    offsets: Tensor

    def __init__(self, network: AttentionNetwork, experts: Experts) -> None:
        super().__init__()
        self.network = network
        # Buffers, which move between devices with the network; in no checkpoint, since they do not change.
        self.register_buffer("keys", experts.keys, persistent=False)
        self.register_buffer("offsets", experts.offsets, persistent=False)

    def forward(self, batch: TaskBatch) -> Tensor:
        """Coordinates (d,) for the batch's task."""
        weights = self.network.weights(batch.query, batch.present, self.keys, batch.allowed)
        return self.network.merge(weights, batch.query, batch.present, self.offsets, batch.start)


class AttentionManifest(Provenance):
    """What a saved attention says of itself."""

    kind: Literal["attention"] = "attention"
    reading: Reading
    config: AttentionConfig
    epochs: int
    """Of the training, chosen on left-out tasks where there were any."""
    worth: tuple[float, ...] = ()
    """On those, before training and after each epoch: score, plus what another task's description costs of it."""


@dataclass(frozen=True, eq=False)
class Attention(TrainedGenerator):
    """A trained attention over the experts of a zoo."""

    manifest: AttentionManifest
    network: AttentionNetwork
    experts: Experts
    conditions: ConditionCodec
    frame: Frame
    exclude: frozenset[str] = frozenset()
    """Experts that may not serve, by licence for example."""
    name: ClassVar[str] = "attention"
    is_stochastic: ClassVar[bool] = False

    @property
    def reading(self) -> Reading:
        """How the task vectors it wants are read."""
        return self.manifest.reading

    @property
    def evidence(self) -> tuple[Evidence, ...]:
        """What it reads them from."""
        return self.manifest.config.evidence

    @torch.inference_mode()
    def generate(self, condition: Condition, *, rng: torch.Generator, num_samples: int = 1) -> list[Generation]:
        """Merge the experts by what is known of the task; nothing is drawn at random.

        Raises:
            GeneratorError: the condition holds no evidence that this generator reads.
        """
        kinds = self.evidence
        require_evidence(condition, kinds)
        query = self.conditions.of(condition.task_vectors, kinds).reshape(len(kinds), -1)
        present = torch.tensor([kind in condition.task_vectors for kind in kinds])
        ids = self.manifest.experts
        allowed = torch.tensor([expert not in self.exclude for expert in ids])
        weights = self.network.weights(query, present, self.experts.keys, allowed)
        coordinates = self.network.merge(weights, query, present, self.experts.offsets, self.experts.start)
        adapter = self.frame.adapter(coordinates, **self.manifest.peft)
        similarity = F.cosine_similarity(self.experts.keys, query, dim=-1) @ (present / present.sum())
        neighbours = [
            Neighbour(expert, float(s), float(w)) for expert, s, w in zip(ids, similarity, weights, strict=True)
        ]
        return [Generation(adapter, tuple(sorted(neighbours, key=lambda n: -n.weight)))] * num_samples

    def without(self, experts: frozenset[str]) -> Self:
        """The same generator, drawing on other experts than these alone.

        Raises:
            GeneratorError: there is no other.
        """
        if experts >= set(self.manifest.experts):
            raise GeneratorError(
                f"None of the {len(self.manifest.experts)} experts that this generator draws on may serve; allow at "
                "least one of them."
            )
        return replace(self, exclude=experts)

    def files(self) -> dict[str, str | bytes]:
        """The generator as the files of its folder; the experts in bfloat16."""
        tensors = network_tensors(self.network) | {
            "keys": self.experts.keys,
            "offsets": self.experts.offsets.bfloat16(),
            "start": self.experts.start,
            "conditions.centres": self.conditions.centres,
            "conditions.scales": self.conditions.scales,
        }
        return {
            MANIFEST: self.manifest.to_yaml(),
            TENSORS: save({name: value.contiguous() for name, value in tensors.items()}),
            FRAME: self.frame.to_bytes(),
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a trained generator.

        Raises:
            GeneratorError: the folder is missing, damaged, or does not hold an attention.
        """
        with reading_folder(folder, "attention"):
            manifest, frame = AttentionManifest.from_yaml(folder / MANIFEST), Frame.load(folder / FRAME)
            tensors = load_file(folder / TENSORS)
            experts = Experts(tensors["keys"], tensors["offsets"].float(), tensors["start"])
            network = AttentionNetwork(experts.keys.shape[-1], tuple(frame.sizes.values()), manifest.config)
            load_network(network, tensors)
            conditions = ConditionCodec(tensors["conditions.centres"], tensors["conditions.scales"])
            return cls(manifest, network, experts, conditions, frame)
