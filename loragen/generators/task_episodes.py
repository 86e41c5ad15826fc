"""What a generator trained on task loss learns from: the experts' tasks and variants of them, in episodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from loragen.backbone import Backbone, DtypeName
from loragen.config import StrictModel
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError, ZooError
from loragen.frame import Frame
from loragen.generators.conditions import ConditionCodec
from loragen.generators.task_loss import TaskBatch
from loragen.generators.trained import TrainConfig
from loragen.task_vectors import Evidence, Reader, Reading, Support
from loragen.taskdata import TaskData
from loragen.tasks import Examples, Task, TaskSet
from loragen.zoo import MULTITASK, Zoo


class TaskSettings(StrictModel):
    """What any training on task loss is told."""

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
    near_share: float = Field(0.5, ge=0, le=1)
    """Share of the episodes in which others of a task's family may help, where the zoo has folds that know them."""
    dtype: DtypeName = "auto"
    """In which the frozen base computes losses and scores; task vectors are read in float32."""


class TaskTrainConfig(TaskSettings, TrainConfig):
    """What `loragen train` is told for any generator that is trained on task loss."""

    pool: int = Field(96, ge=1)
    """Training examples a task from which supports are drawn."""
    shots: tuple[PositiveInt, ...] = Field((4, 8, 16, 32), min_length=1)
    """Sizes of a support."""
    evidence_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of the episodes in which a kind of evidence is missing."""


@dataclass(frozen=True, eq=False)
class Known:
    """A task to learn from, or a variant of one."""

    data: TaskData
    states: dict[Evidence, Tensor]
    """By kind of evidence, the states of its prompts, (prompts, h)."""
    pool: int
    """Texts from which supports are drawn."""

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
    offsets: Tensor
    """What training added to where each expert began, as precise as it will be stored, (n, d)."""
    origin: Tensor
    """Coordinates where experts began, (d,): of the one adapter for all tasks, the mean of the folds where each began
    at a fold of its own, or zero where the zoo has neither."""
    start: Tensor
    """Coordinates that a generation begins at, (d,): the mean of the folds, which are of one make with what the tasks
    of the training began at; without folds the origin."""
    folds: "Folds"
    frame: Frame
    evidence: tuple[Evidence, ...]
    conditions: ConditionCodec
    keys: Tensor
    """Task vectors of the experts from all there is, encoded, (n, kinds, h)."""
    reader: Reader | TextEncoder
    """Of the prompts; a text encoder reads descriptions alone."""

    @property
    def reading(self) -> Reading:
        """How task vectors are read, where a base reads them."""
        assert isinstance(self.reader, Reader)
        return self.reader.reading

    def told(self, description: str) -> Tensor:
        """The query of a description alone, (kinds, h)."""
        vectors: dict[Evidence, Tensor] = {"description": _descriptions(self.reader, [description])[0]}
        return self.conditions.of(vectors, self.evidence).reshape(len(self.evidence), -1)


@dataclass(frozen=True, eq=False)
class Folds:
    """Where each task starts from in training: an adapter for all tasks but some, this one among them."""

    starts: Tensor
    """Coordinates of the adapters, (folds, d)."""
    far: Tensor
    """For each expert the fold that was kept from its whole family, (n,)."""
    near: Tensor
    """For each expert the fold that was kept from its task but not from all its family, (n,); -1 if there is none."""

    @classmethod
    def of(cls, zoo: Zoo, frame: Frame, origin: Tensor) -> "Folds":
        """The folds of a zoo; a zoo without folds has one, the origin, which was kept from nothing.

        Raises:
            ZooError: a fold leaves an expert out of account.
        """
        folds, n = zoo.folds(), len(zoo)
        if not folds:
            return cls(origin[None], torch.zeros(n, dtype=torch.long), torch.full((n,), -1))
        far = {task: at for at, fold in enumerate(folds) for task in fold.plan.far}
        near = {task: at for at, fold in enumerate(folds) for task in fold.plan.near}
        if missing := [expert for expert in zoo.ids if expert not in far]:
            raise ZooError(
                f"The folds of {zoo.root} were made without {', '.join(missing[:3])}, which it has experts of; remove "
                "its folder 'folds' and build it again."
            )
        return cls(
            torch.stack([frame.coordinates(fold.adapter) for fold in folds]),
            torch.tensor([far[expert] for expert in zoo.ids]),
            torch.tensor([near.get(expert, -1) for expert in zoo.ids]),
        )


@dataclass(frozen=True, eq=False)
class Beginnings:
    """Where the experts of a zoo began."""

    folds: Folds
    origin: Tensor
    """The same for all, (d,): the adapter for all tasks, the mean of the folds, or zero."""
    experts: Tensor
    """Of each of them, (n, d); other than the origin where it began at a fold of its own."""

    @classmethod
    def of(cls, zoo: Zoo, frame: Frame) -> Self:
        """Read them.

        Raises:
            ZooError: a fold leaves an expert out of account.
        """
        has_multitask = (zoo.root / MULTITASK).is_dir()
        origin = frame.coordinates(zoo.multitask()) if has_multitask else torch.zeros(frame.size)
        folds = Folds.of(zoo, frame, origin)
        if zoo.manifest.start == "folds":
            return cls(folds, folds.starts.mean(0), folds.starts[folds.far])
        return cls(folds, origin, origin.expand(len(zoo), -1))


def prepare(
    config: TaskTrainConfig,
    zoo: Zoo,
    backbone: Backbone,
    evidence: tuple[Evidence, ...],
    *,
    reading: Reading | TextEncoder | None = None,
    conditions: ConditionCodec | None = None,
) -> Material:
    """Read experts, the states of their prompts for the kinds of evidence wanted, and their tasks' texts.

    Args:
        config: numbers of variants and of texts.
        zoo: the experts.
        backbone: the base, which tokenises the texts.
        evidence: kinds of it that are read.
        reading: how; by default by the base, and by a text encoder descriptions alone.
        conditions: how task vectors become a query; by default fitted to those of the experts.

    Raises:
        ConfigError: all experts are of one family.
        ZooError: the zoo has no expert.
        TaskError: an expert's task or its examples are missing.
    """
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    frame = Frame.fit(adapters)
    families = [card.family or card.id for card in zoo]
    if len(set(families)) == 1:
        raise ConfigError(
            f"The zoo {zoo.root} has experts of one family alone, {families[0]!r}, and a task's own family takes no "
            "part in what is made for it in training: nobody would be left. Name a zoo of at least two families with "
            "'zoo', or more of its 'splits'."
        )
    if reading is None:
        reading = Reading(
            model=zoo.manifest.base,
            objective=zoo.manifest.recipe.objective,
            model_hash=backbone.fingerprint,
            max_length=config.max_length,
        )
    reader, task_set = _reader(reading, backbone), TaskSet.from_yaml(config.tasks, root=config.tasks_root)
    rng = torch.Generator().manual_seed(config.seed)
    tasks = tuple(_known(config, task_set[expert], backbone, reader, evidence, rng=rng) for expert in zoo.ids)
    if conditions is None:
        conditions = ConditionCodec.fit([[known[0].states[kind] for known in tasks] for kind in evidence])
    means = torch.stack([torch.stack([known[0].states[kind].mean(0) for kind in evidence]) for known in tasks])
    keys = conditions.encode(means, torch.ones(means.shape[:2], dtype=torch.bool))
    began = Beginnings.of(zoo, frame)
    coordinates = torch.stack([frame.coordinates(adapter) for adapter in adapters])
    return Material(
        tasks,
        torch.tensor([[one == other for other in families] for one in families]),
        (coordinates - began.experts).bfloat16().float(),
        began.origin,
        began.folds.starts.mean(0),
        began.folds,
        frame,
        evidence,
        conditions,
        keys.reshape(len(tasks), len(evidence), -1),
        reader,
    )


def _reader(reading: Reading | TextEncoder, backbone: Backbone) -> Reader | TextEncoder:
    """What reads the prompts; the base is not loaded again."""
    if isinstance(reading, TextEncoder):
        return reading
    return Reader(backbone, reading) if reading.model == backbone.name else Reader.load(reading)


def _known(
    config: TaskTrainConfig,
    task: Task,
    backbone: Backbone,
    reader: Reader | TextEncoder,
    evidence: tuple[Evidence, ...],
    *,
    rng: torch.Generator,
) -> tuple[Known, ...]:
    """A task and its variants."""
    examples = task.load_train()
    pool = examples.subset(torch.randperm(len(examples), generator=rng)[: config.pool])
    data = TaskData.of(task, examples, backbone, max_length=config.max_length)
    whole = Known(data, {kind: _states(kind, task, pool, reader) for kind in evidence}, len(pool))
    variants = []
    for _ in range(config.variants if len(task.labels) >= 4 else 0):
        number = int(torch.randint(2, len(task.labels), (), generator=rng))
        kept = torch.randperm(len(task.labels), generator=rng)[:number].sort().values
        variant = _variant(whole, task, kept, pool, reader)
        if len(variant.data.ids) >= config.batch_size and variant.pool:
            variants.append(variant)
    return whole, *variants


def _descriptions(reader: Reader | TextEncoder, texts: Sequence[str]) -> Tensor:
    return reader.encode(texts) if isinstance(reader, TextEncoder) else reader.descriptions(texts)


def _states(kind: Evidence, task: Task, pool: Examples, reader: Reader | TextEncoder) -> Tensor:
    if kind == "description":
        return _descriptions(reader, task.descriptions)
    assert isinstance(reader, Reader), "a text encoder reads descriptions alone"
    match kind:
        case "labels":
            return reader.labels(task.labels)
        case "texts":
            return reader.texts(Support.of(task, pool))
        case "examples":
            return reader.examples(Support.of(task, pool))


def _variant(whole: Known, task: Task, kept: Tensor, pool: Examples, reader: Reader | TextEncoder) -> Known:
    """The part of a task with some of its labels, positions (c,) in ascending order; its descriptions name them."""
    data, labels = whole.data, kept.tolist()
    texts = data.subset(torch.isin(data.targets, kept).nonzero()[:, 0].tolist())
    part = TaskData(
        texts.ids, torch.searchsorted(kept, texts.targets), tuple(data.label_ids[label] for label in labels)
    )
    pooled = torch.isin(torch.tensor(pool.labels), kept)
    states = dict(whole.states)
    for kind, values in whole.states.items():
        if kind == "description":
            names = ", ".join(task.labels[label] for label in labels)
            told = [f"{text} The answer is one of: {names}." for text in task.descriptions]
            states[kind] = _descriptions(reader, told)
        else:
            states[kind] = values[kept] if kind == "labels" else values[pooled]
    return Known(part, states, int(pooled.sum()))


def episodes(material: Material, config: TaskTrainConfig, *, rng: torch.Generator) -> list[TaskBatch]:
    """One epoch: each step draws a task or a variant, its texts, a support, and which evidence there is.

    Args:
        material: the tasks.
        config: sizes and numbers of the batches.
        rng: the only source of randomness.
    """
    batches = []
    for _ in range(config.steps_per_epoch):
        expert = int(torch.randint(len(material.tasks), (), generator=rng))
        variants = material.tasks[expert]
        known = variants[int(torch.randint(len(variants), (), generator=rng))]
        query, present = known_of(known, material, config, rng=rng)
        data = next(known.data.batches(1, config.batch_size, rng=rng))
        start, allowed = _apart(material, expert, is_near=float(torch.rand((), generator=rng)) < config.near_share)
        batches.append(TaskBatch(data, query, present, allowed, start))
    return batches


def known_of(
    known: Known, material: Material, config: TaskTrainConfig, *, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """What an episode knows of a task: its vectors as networks read them, (kinds, h), and which there are, (kinds,)."""
    kinds = material.evidence
    present = torch.rand(len(kinds), generator=rng) >= config.evidence_dropout
    if not present.any():
        present[int(torch.randint(len(kinds), (), generator=rng))] = True
    told = int(torch.randint(1_000_000, (), generator=rng))
    shots = config.shots[int(torch.randint(len(config.shots), (), generator=rng))]
    # Texts and examples come from the same rows; at most as many as there are.
    rows = torch.randperm(known.pool, generator=rng)[:shots]
    vectors = torch.stack([known.vector(kind, told=told, rows=rows) for kind in kinds])
    return material.conditions.encode(vectors, present).reshape(len(kinds), -1), present


def _apart(material: Material, expert: int, *, is_near: bool) -> tuple[Tensor, Tensor]:
    """Where a task starts from and who may help: nothing that has seen it, nor, unless near, its family."""
    folds, near = material.folds, int(material.folds.near[expert])
    if is_near and near >= 0:
        allowed = torch.ones(len(material.tasks), dtype=torch.bool)
        allowed[expert] = False
        return folds.starts[near], allowed
    return folds.starts[int(folds.far[expert])], ~material.related[expert]
