"""Trains attention over experts: tasks with variants, episodes of their texts, and the run through the base."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from loragen.backbone import Backbone, DtypeName, choose_dtype
from loragen.embedding import TextEncoder
from loragen.evaluation.scoring import score_task
from loragen.experts import TaskData
from loragen.files import atomic_write
from loragen.frame import Frame
from loragen.generators.attention import (
    Attention,
    AttentionConfig,
    AttentionMaker,
    AttentionManifest,
    AttentionNetwork,
    Experts,
)
from loragen.generators.conditions import ConditionCodec
from loragen.generators.task_loss import TaskBatch, TaskObjective
from loragen.generators.trained import TrainConfig
from loragen.schedule import Schedule
from loragen.task_vectors import Evidence, Reader, Reading, Support
from loragen.tasks import Task, TaskSet
from loragen.zoo import Zoo


class AttentionTrainConfig(TrainConfig):
    """What `loragen train` is told for attention over experts."""

    generator: Literal["attention"]
    attention: AttentionConfig = AttentionConfig()
    tasks: Path
    """The experts' tasks: their texts are what it learns from."""
    tasks_root: Path | None = None
    """Where the tasks' files lie, if not where that file says."""
    judged_on: str | None = "validation"
    """The split of left-out tasks that chooses the epoch; null trains to the end."""
    judged_texts: int = Field(100, ge=20)
    """Test texts of each of them."""
    contrast_weight: float = Field(1.0, ge=0)
    """Weight of supervised contrast, which sees no label text."""
    max_length: int = Field(64, ge=8)
    """Tokens of a text in training, and of a prompt that task vectors are read from."""
    variants: int = Field(3, ge=0)
    """Tasks made of a random part of a task's labels, for each task of at least four."""
    pool: int = Field(96, ge=1)
    """Training examples a task from which supports are drawn."""
    shots: tuple[PositiveInt, ...] = Field((4, 8, 16, 32), min_length=1)
    """Sizes of a support."""
    evidence_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of the episodes in which a kind of evidence is missing."""
    dtype: DtypeName = "auto"


@dataclass(frozen=True, eq=False)
class Known:
    """A task to learn from, or a variant of one."""

    data: TaskData
    states: dict[Evidence, Tensor]
    """By kind of evidence, the states of its prompts, (prompts, h)."""

    def vector(self, kind: Evidence, *, told: int, rows: Tensor) -> Tensor:
        """A task vector (h,): of a description by number, of all labels, or of the texts or examples at ``rows``."""
        states = self.states[kind]
        if kind == "description":
            return states[told % len(states)]
        return states.mean(0) if kind == "labels" else states[rows].mean(0)


@dataclass(frozen=True, eq=False)
class Material:
    """A zoo and its tasks made ready."""

    tasks: tuple[tuple[Known, ...], ...]
    """For each expert its task, and then the variants of it."""
    related: Tensor
    """Whether two experts are of one family, boolean (n, n)."""
    coordinates: Tensor
    """Of the experts, (n, d)."""
    frame: Frame
    conditions: ConditionCodec
    keys: Tensor
    """Task vectors of the experts from all there is, encoded, (n, kinds, h)."""
    reading: Reading


def prepare(config: AttentionTrainConfig, zoo: Zoo, backbone: Backbone) -> Material:
    """Read experts, the states of their prompts, and their tasks' texts.

    Raises:
        ZooError: the zoo has no expert.
        TaskError: an expert's task or its examples are missing.
    """
    frame = Frame.fit([zoo.adapter(expert) for expert in zoo.ids])
    reading = Reading(model=zoo.manifest.base, model_hash=backbone.fingerprint, max_length=config.max_length)
    reader, task_set = Reader(backbone, reading), TaskSet.from_yaml(config.tasks, root=config.tasks_root)
    rng = torch.Generator().manual_seed(config.seed)
    tasks = tuple(_known(config, task_set[expert], reader, rng=rng) for expert in zoo.ids)
    kinds = config.attention.evidence
    conditions = ConditionCodec.fit([[known[0].states[kind] for known in tasks] for kind in kinds])
    means = torch.stack([torch.stack([known[0].states[kind].mean(0) for kind in kinds]) for known in tasks])
    families = [card.family or card.id for card in zoo]
    return Material(
        tasks,
        torch.tensor([[one == other for other in families] for one in families]),
        torch.stack([frame.coordinates(zoo.adapter(expert)) for expert in zoo.ids]).bfloat16().float(),
        frame,
        conditions,
        conditions.encode(means, torch.ones(means.shape[:2], dtype=torch.bool)).reshape(len(tasks), len(kinds), -1),
        reading,
    )


def _known(config: AttentionTrainConfig, task: Task, reader: Reader, *, rng: torch.Generator) -> tuple[Known, ...]:
    examples = task.load_train()
    data = TaskData.of(task, examples, reader.backbone, max_length=config.max_length)
    pool = examples.subset(torch.randperm(len(examples), generator=rng)[: config.pool])
    support = Support.of(task, pool)
    of_labels = reader.labels(task.labels)
    found: dict[Evidence, Tensor] = {"texts": reader.texts(support), "examples": reader.examples(support)}
    described: dict[Evidence, Tensor] = {"description": reader.descriptions(task.descriptions), "labels": of_labels}
    whole = Known(data, described | found)
    variants = []
    for _ in range(config.variants if len(task.labels) >= 4 else 0):
        number = int(torch.randint(2, len(task.labels), (), generator=rng))
        kept = torch.randperm(len(task.labels), generator=rng)[:number].sort().values
        names = ", ".join(task.labels[label] for label in kept.tolist())
        rows = torch.isin(data.targets, kept).nonzero()[:, 0].tolist()
        pooled = torch.isin(torch.tensor(pool.labels), kept)
        if len(rows) < config.batch_size or not pooled.any():
            continue
        part = data.subset(rows)
        renamed = torch.searchsorted(kept, part.targets)
        told = reader.descriptions([f"{text} The answer is one of: {names}." for text in task.descriptions])
        states: dict[Evidence, Tensor] = {"description": told, "labels": of_labels[kept]}
        states |= {kind: values[pooled] for kind, values in found.items()}
        label_ids = tuple(data.label_ids[label] for label in kept.tolist())
        variants.append(Known(TaskData(part.ids, renamed, label_ids), states))
    return whole, *variants


def episodes(material: Material, config: AttentionTrainConfig, *, rng: torch.Generator) -> list[TaskBatch]:
    """One epoch: each step draws a task or a variant, its texts, a support, and which evidence there is."""
    kinds, batches = config.attention.evidence, []
    for _ in range(config.steps_per_epoch):
        expert = int(torch.randint(len(material.tasks), (), generator=rng))
        variants = material.tasks[expert]
        known = variants[int(torch.randint(len(variants), (), generator=rng))]
        present = torch.rand(len(kinds), generator=rng) >= config.evidence_dropout
        if not present.any():
            present[int(torch.randint(len(kinds), (), generator=rng))] = True
        told = int(torch.randint(1_000_000, (), generator=rng))
        shots = config.shots[int(torch.randint(len(config.shots), (), generator=rng))]
        rows = torch.randperm(len(known.states["texts"]), generator=rng)[:shots]
        vectors = torch.stack([known.vector(kind, told=told, rows=rows) for kind in kinds])
        query = material.conditions.encode(vectors, present).reshape(len(kinds), -1)
        data = next(known.data.batches(1, config.batch_size, rng=rng))
        batches.append(TaskBatch(data, query, present, ~material.related[expert]))
    return batches


def fit_attention(
    config: AttentionTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Attention, list[dict[str, float]]]:
    """Train attention over the experts of a zoo; returns the generator and its losses, a row a step.

    Raises:
        ConfigError: the base has other weights here than the zoo was trained on.
        TaskError: a task or its examples are missing.
    """
    from loragen.training import fit

    backbone = Backbone.load(zoo.manifest.base, dtype=choose_dtype(config.dtype))
    material = prepare(config, zoo, backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = AttentionNetwork(material.keys.shape[-1], tuple(material.frame.sizes.values()), config.attention)
    maker = AttentionMaker(network, Experts(material.keys, material.coordinates))
    judge = Judge.of(config, material, backbone)
    candidates = Candidates(checkpoints)

    def batches(epoch: int) -> list[TaskBatch]:
        return episodes(material, config, rng=torch.Generator().manual_seed(config.seed * 1_000_003 + epoch))

    def keep(epoch: int) -> None:
        if judge is not None:
            candidates.add(epoch, judge.worth(maker), network.state_dict())

    keep(0)  # where it begins is the cheap rival: to be kept if no training betters it
    schedule = Schedule(config.epochs, config.steps_per_epoch, config.learning_rate, weight_decay=config.weight_decay)
    objective = TaskObjective(backbone, maker, material.frame, contrast_weight=config.contrast_weight)
    history = fit(
        objective, batches, schedule, seed=config.seed, checkpoints=checkpoints, on_step=on_step, on_epoch=keep
    )
    epochs = config.epochs
    if judge is not None:
        epochs, state = candidates.best()
        network.load_state_dict(state)
    manifest = AttentionManifest(
        **AttentionManifest.facts(zoo, encoder),
        reading=material.reading,
        config=config.attention,
        epochs=epochs,
        worth=tuple(round(candidates.worth[epoch], 4) for epoch in sorted(candidates.worth)),
    )
    trained = network.cpu().eval().requires_grad_(False)
    experts = Experts(material.keys, material.coordinates)
    return Attention(manifest, trained, experts, material.conditions, material.frame), history


@dataclass(frozen=True, eq=False)
class Judge:
    """Left-out tasks, with what a generator is told of each and what it is told in the control."""

    backbone: Backbone
    frame: Frame
    tasks: tuple[tuple[TaskData, TaskBatch, TaskBatch], ...]

    @classmethod
    def of(cls, config: AttentionTrainConfig, material: Material, backbone: Backbone) -> "Judge | None":
        """Read the left-out tasks' descriptions; the control is the description of the next task in the list."""
        if config.judged_on is None:
            return None
        tasks = TaskSet.from_yaml(config.tasks, root=config.tasks_root).split(config.judged_on)
        reader, kinds = Reader(backbone, material.reading), config.attention.evidence
        present = torch.tensor([kind == "description" for kind in kinds])
        allowed = torch.ones(len(material.tasks), dtype=torch.bool)
        found = []
        for task in tasks:
            examples = task.load_test()
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(config.seed))
            first = examples.subset(order[: config.judged_texts])
            data = TaskData.of(task, first, backbone, max_length=config.max_length)
            vectors = reader.task_vectors(task.description)
            query = material.conditions.of(vectors, kinds).reshape(len(kinds), -1)
            found.append(TaskBatch(data, query, present, allowed))
        others = [*found[1:], *found[:1]]
        judged = [(one.data, one, other) for one, other in zip(found, others, strict=True)]
        return cls(backbone, material.frame, tuple(judged))

    @torch.no_grad()
    def worth(self, maker: nn.Module) -> float:
        """Mean score, plus what of it is lost under another task's description; a score is that of both kinds.

        The second part alone would prefer a generator that does harm when it is told something else.
        """
        device = next(maker.parameters()).device
        found = []
        for data, *told in self.tasks:
            right, other = (self._score(maker(batch.to(device)).cpu(), data) for batch in told)
            found.append(right + (right - other))
        return sum(found) / len(found)

    def _score(self, coordinates: Tensor, data: TaskData) -> float:
        scores = score_task(self.backbone, self.frame.adapter(coordinates, base=None), data)
        return (scores.accuracy + scores.knn_accuracy) / 2


class Candidates:
    """The network after every epoch and what it was worth, on disk where the run can be resumed."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._states: dict[int, bytes] = {}
        self._worth = folder / "worth.json" if folder is not None else None
        kept = json.loads(self._worth.read_text()) if self._worth is not None and self._worth.exists() else {}
        self.worth = {int(epoch): float(value) for epoch, value in kept.items()}

    def add(self, epoch: int, worth: float, state: Mapping[str, Tensor]) -> None:
        """Keep a candidate."""
        content = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
        self.worth[epoch] = worth
        if self._folder is None or self._worth is None:
            self._states[epoch] = content
            return
        atomic_write(self._folder / f"epoch-{epoch}.safetensors", content)
        atomic_write(self._worth, json.dumps(self.worth))

    def best(self) -> tuple[int, dict[str, Tensor]]:
        """The epoch that was worth most, the first of equals, and the network's state after it."""
        epoch = max(sorted(self.worth), key=lambda at: self.worth[at])
        if self._folder is None:
            return epoch, load(self._states[epoch])
        return epoch, load_file(self._folder / f"epoch-{epoch}.safetensors")
