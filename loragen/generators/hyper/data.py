"""Training data of the hypernetwork: experts, their tasks with variants, and the folds that each starts from."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.conditions.condition import ConditionCodec
from loragen.conditions.task_vectors import EvidenceKind, Reader, Reading
from loragen.errors import ConfigError, ZooError, shown
from loragen.generators.hyper.config import TaskTrainConfig
from loragen.recipes.expert import Start
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class EpisodeTask:
    """A task to learn from, or a variant of one."""

    data: TaskData
    states: dict[EvidenceKind, Tensor]
    """By kind of evidence, the states of its prompts, (prompts, h)."""
    pool: int
    """Texts from which supports are drawn."""
    told: tuple[TaskData, ...] = ()
    """The same texts after each of the task's descriptions; empty where prompts tell nothing."""

    def batch(self, size: int, *, rng: torch.Generator) -> TaskData:
        """Texts drawn at random, all after the same description where prompts tell one."""
        data = self.told[int(torch.randint(len(self.told), (), generator=rng))] if self.told else self.data
        return next(data.batches(1, size, rng=rng))

    def vector(self, kind: EvidenceKind, *, number: int, rows: Tensor) -> Tensor:
        """A task vector (h,): of a description by number, of all labels, or of the texts or examples at ``rows``."""
        states = self.states[kind]
        if kind == "description":
            return states[number % len(states)]
        return states.mean(0) if kind == "labels" else states[rows].mean(0)


@dataclass(frozen=True, eq=False)
class HyperData:
    """The experts of a zoo as coordinates, and their tasks' texts and prompts."""

    tasks: tuple[tuple[EpisodeTask, ...], ...]
    """For each expert its task, and then the variants of it."""
    offsets: Tensor
    """Offsets that training added to where each expert began, as precise as it will be stored, (n, d)."""
    origin: Tensor
    """Coordinates where experts began, (d,): of the one adapter for all tasks, the mean of the folds where each began
    at a fold of its own, or zero where the zoo has neither."""
    start: Tensor
    """Coordinates that a generation begins at, (d,): the mean of the folds, since tasks begin at a fold in
    training; without folds the origin."""
    folds: "FoldStarts"
    frame: Frame
    evidence: tuple[EvidenceKind, ...]
    conditions: ConditionCodec
    keys: Tensor
    """Task vectors of the experts from all there is, encoded, (n, kinds, h)."""
    reader: Reader
    """Of the prompts."""
    more: dict[str, tuple[EpisodeTask, ...]] = field(default_factory=dict)
    """Further tasks, which have no experts: of each its id, the task, and the variants of it."""

    def query(self, description: str) -> Tensor:
        """The query of a description alone, (kinds, h)."""
        vectors: dict[EvidenceKind, Tensor] = {"description": self.reader.descriptions([description])[0]}
        return self.conditions.of(vectors, self.evidence).reshape(len(self.evidence), -1)


@dataclass(frozen=True, eq=False)
class FoldStarts:
    """Starts of the tasks in training: for each an adapter for all tasks but some, this one among them."""

    starts: Tensor
    """Coordinates of the adapters, (folds, d)."""
    far: Tensor
    """For each expert the fold that was kept from its whole family, (n,)."""
    near: Tensor
    """For each expert the fold that was kept from its task but not from all its family, (n,); -1 if there is none."""

    @classmethod
    def alike(cls, start: Tensor, n: int) -> "FoldStarts":
        """One start (d,) for n tasks."""
        return cls(start[None], torch.zeros(n, dtype=torch.long), torch.full((n,), -1))

    @classmethod
    def of(cls, zoo: Zoo, frame: Frame, origin: Tensor) -> "FoldStarts":
        """The folds of a zoo; a zoo without folds has one, the origin, which was kept from nothing.

        Raises:
            ZooError: a fold leaves an expert out of account.
        """
        folds = zoo.folds()
        if not folds:
            return cls.alike(origin, len(zoo))
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
class ExpertStarts:
    """Coordinates that the training of a zoo's experts began at."""

    folds: FoldStarts
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
        has_multitask = (zoo.root / MULTITASK_FOLDER).is_dir()
        origin = frame.coordinates(zoo.multitask()) if has_multitask else torch.zeros(frame.size)
        folds = FoldStarts.of(zoo, frame, origin)
        if zoo.manifest.start == "folds":
            return cls(folds, folds.starts.mean(0), folds.starts[folds.far])
        return cls(folds, origin, origin.expand(len(zoo), -1))


def read_experts(
    config: TaskTrainConfig,
    zoo: Zoo,
    base: Base,
    evidence: tuple[EvidenceKind, ...],
    *,
    frame: Frame | None = None,
) -> HyperData:
    """Read experts, the states of their prompts for the kinds of evidence wanted, and their tasks' texts.

    Args:
        config: numbers of variants and of texts.
        zoo: the experts.
        base: tokenises the texts and reads the prompts.
        evidence: kinds of it that are read.
        frame: in which experts are coordinates; by default one that fits them.

    Raises:
        ConfigError: all experts are of one family, the model that is to read is not at hand, a further task is one
            that is kept from training, or tasks are to be told without a chat.
        ZooError: the zoo has no expert.
        TaskError: an expert's task or its examples are missing.
    """
    if config.told is not None and zoo.manifest.recipe.chat is None:
        raise ConfigError(f"A task is told in a chat, and the experts of {zoo.root} do not chat; leave 'told' out.")
    task_set = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
    further = _further(config, task_set, zoo)
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    families = [card.family or card.id for card in zoo]
    if len(set(families)) == 1:
        raise ConfigError(
            f"The zoo {zoo.root} has experts of one family alone, {families[0]!r}, and a task's own family takes no "
            "part in its training: none would be left. Name a zoo of at least two families with "
            "'zoo', or more of its 'splits'."
        )
    reader = _reader(config, zoo, base)
    rng = torch.Generator().manual_seed(config.seed)
    tasks = tuple(_with_variants(config, task_set[expert], base, reader, evidence, rng=rng) for expert in zoo.ids)
    more = {task.id: _with_variants(config, task, base, reader, evidence, rng=rng) for task in further}
    conditions = ConditionCodec.fit([[variants[0].states[kind] for variants in tasks] for kind in evidence])
    means = torch.stack([torch.stack([variants[0].states[kind].mean(0) for kind in evidence]) for variants in tasks])
    keys = conditions.encode(means, torch.ones(means.shape[:2], dtype=torch.bool))
    own = frame_of(zoo, adapters) if frame is None or config.told is not None else frame
    starts = ExpertStarts.of(zoo, own)
    coordinates = torch.stack([own.coordinates(adapter) for adapter in adapters])
    offsets = (coordinates - starts.experts).bfloat16().float()
    if config.told is not None:
        frame, starts = _told_starts(config.told, own, frame, len(zoo))
    return HyperData(
        tasks,
        offsets,
        starts.origin,
        starts.folds.starts.mean(0),
        starts.folds,
        own if frame is None else frame,
        evidence,
        conditions,
        keys.reshape(len(tasks), len(evidence), -1),
        reader,
        more,
    )


def _told_starts(folder: Path, own: Frame, frame: Frame | None, n: int) -> tuple[Frame, ExpertStarts]:
    """Frame and starts of tasks whose adapters all begin at one that was trained with descriptions in its prompts.

    Its A is its own, and the experts' offsets are taken over as they are: what they write, read by other rows.

    Raises:
        ConfigError: its sites or ranks are not the experts'.
        AdapterError: the folder holds no adapter.
    """
    adapter = Lora.load(folder)
    begun = Start.at(adapter)
    frame = Frame(begun.lora_A, {site: len(b) for site, b in begun.lora_B.items()}) if frame is None else frame
    if frame.sizes != own.sizes:
        raise ConfigError(
            f"The adapter {folder} has other sites or ranks than the experts; name one of the experts' with 'told'."
        )
    start = frame.coordinates(adapter)
    return frame, ExpertStarts(FoldStarts.alike(start, n), start, start.expand(n, -1))


def _further(config: TaskTrainConfig, task_set: TaskSet, zoo: Zoo) -> list[Task]:
    """Tasks without experts that the config names.

    Raises:
        ConfigError: one is a task of a split that the experts are not of.
    """
    if config.more_tasks is None:
        return []
    kept = {task: split for split, names in task_set.splits.items() if split not in config.splits for task in names}
    found = [task for task in TaskSet.from_yaml(config.more_tasks) if task.id not in zoo.cards]
    if held_out := [task.id for task in found if task.id in kept]:
        raise ConfigError(
            f"{config.more_tasks} has {shown(held_out[0])}, which {config.tasks} keeps in the split "
            f"{kept[held_out[0]]!r}; take it out of 'more_tasks'."
        )
    return found


def _reader(config: TaskTrainConfig, zoo: Zoo, base: Base) -> Reader:
    """The reader of task vectors: the model that the config names, or the base."""
    if config.reading_model is not None:
        loaded = Reader.load(Reading(model=config.reading_model, max_length=config.max_length))
        known = loaded.reading.model_copy(update={"model_hash": loaded.base.fingerprint})
        return Reader(loaded.base, known)
    return Reader(
        base,
        Reading(
            model=zoo.manifest.base,
            objective=zoo.manifest.recipe.objective,
            model_hash=base.fingerprint,
            max_length=config.max_length,
        ),
    )


def _with_variants(
    config: TaskTrainConfig,
    task: Task,
    base: Base,
    reader: Reader,
    evidence: tuple[EvidenceKind, ...],
    *,
    rng: torch.Generator,
) -> tuple[EpisodeTask, ...]:
    """A task and its variants."""
    examples = task.load_train()
    pool = examples.subset(torch.randperm(len(examples), generator=rng)[: config.pool])
    drawn = (
        examples
        if config.texts is None
        else examples.subset(torch.randperm(len(examples), generator=rng)[: config.texts])
    )
    data = base.prepare(drawn, max_length=config.max_length)
    told = tuple(
        base.prepare(drawn, max_length=config.max_length, instruction=description)
        for description in (() if config.told is None else task.descriptions)
    )
    whole = EpisodeTask(data, {kind: _states(kind, task, pool, reader) for kind in evidence}, len(pool), told)
    variants = []
    for _ in range(config.variants if len(task.labels) >= 4 else 0):
        number = int(torch.randint(2, len(task.labels), (), generator=rng))
        kept = torch.randperm(len(task.labels), generator=rng)[:number].sort().values
        variant = _variant(whole, task, kept, pool, reader)
        if len(variant.data.ids) >= config.batch_size and variant.pool:
            variants.append(variant)
    return whole, *variants


def _states(kind: EvidenceKind, task: Task, pool: Examples, reader: Reader) -> Tensor:
    if kind == "description":
        return reader.descriptions(task.descriptions)
    match kind:
        case "labels":
            return reader.labels(task.labels)
        case "texts":
            return reader.texts(pool)
        case "examples":
            return reader.examples(pool)


def _variant(whole: EpisodeTask, task: Task, kept: Tensor, pool: Examples, reader: Reader) -> EpisodeTask:
    """The part of a task with some of its labels, positions (c,) in ascending order; its descriptions name them."""
    data, labels = whole.data, kept.tolist()
    texts = data.subset(torch.isin(data.targets, kept).nonzero()[:, 0].tolist())
    part = TaskData(
        texts.ids, torch.searchsorted(kept, texts.targets), tuple(data.label_ids[label] for label in labels)
    )
    pooled = torch.isin(torch.tensor(pool.labels or ()), kept)
    states = dict(whole.states)
    for kind, values in whole.states.items():
        if kind == "description":
            names = ", ".join(task.labels[label] for label in labels)
            described = [f"{text} The answer is one of: {names}." for text in task.descriptions]
            states[kind] = reader.descriptions(described)
        else:
            states[kind] = values[kept] if kind == "labels" else values[pooled]
    return EpisodeTask(part, states, int(pooled.sum()))
