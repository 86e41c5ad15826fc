"""Training data of ICM-LoRA: a zoo read as vectors, the states of its tasks' prompts, and episodes of the two."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.codec import Codec
from loragen.adapters.frame import Frame
from loragen.adapters.raw_factors import RawFactors
from loragen.conditions.condition import ConditionCodec
from loragen.conditions.task_vectors import EvidenceKind, Reader, Reading
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.icm.model import ICMBatch, ICMConfig
from loragen.generators.trained import TrainConfig
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import Task, TaskSet
from loragen.values import MOST_EXAMPLES, MOST_PARTS, MOST_TOKENS, Shots
from loragen.zoo.expert_index import ExpertIndex, samples_of
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo


class ICMTrainConfig(TrainConfig):
    """Settings of `loragen train` for ICM-LoRA."""

    generator: Literal["icm"]
    tasks: Path | None = None
    """The experts' tasks, for supports of texts and labelled examples; not needed for descriptions alone."""
    icm: ICMConfig = Field(ICMConfig(), validate_default=True)
    """Without ``tasks`` the evidence is by default the description alone."""
    tasks_root: Path | None = None
    """Folder of the tasks' files, if not the one that file names."""
    reading_model: str | None = None
    """Reads the task vectors; by default the base, or ``encoder`` where all experts were imported: the base of adapters
    from elsewhere need not be at hand."""
    pooling: Literal["mean", "last"] = "mean"
    through: Literal["base", "own_adapter"] = "base"
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    pool: int = Field(96, ge=1, le=MOST_EXAMPLES)
    """Training examples a task from which supports are drawn."""
    shots: tuple[Shots, ...] = Field((4, 8, 16, 32), min_length=1)
    """Sizes of a support."""
    evidence_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of the episodes in which a kind of evidence is missing."""
    folds: int = Field(0, ge=0, le=MOST_PARTS)
    """Left-out tasks choose the number of epochs: in how many parts they are left out; as many as experts leaves out
    one at a time, and 0 trains to the end."""

    @field_validator("icm")
    @classmethod
    def _reads_descriptions_where_no_tasks_are_named(cls, icm: ICMConfig, info: ValidationInfo) -> ICMConfig:
        if info.data.get("tasks") is not None or "evidence" in icm.model_fields_set:
            return icm
        return icm.model_copy(update={"evidence": ("description",)})

    @property
    def steps(self) -> int:
        """Optimiser steps of all trainings together; the last may end earlier."""
        return (self.folds + 1) * self.steps_of_a_training


@dataclass(frozen=True, eq=False)
class ICMData:
    """The experts of a zoo as vectors, and the states of their tasks' prompts."""

    samples: Tensor
    """For each expert its mean and its snapshots as vectors of ``space``, (n, 1 + snapshots, d)."""
    space: Frame | RawFactors
    states: dict[EvidenceKind, tuple[Tensor, ...]]
    """By kind of evidence, for each expert the states of its prompts, (prompts, h)."""
    reading: Reading
    embeddings: Tensor
    """Of the experts, (n, c)."""

    def codec(self, experts: Sequence[int], config: ICMConfig) -> Codec:
        """The codec fitted to some experts."""
        samples = self._samples_of(experts)
        if config.codec == "raw":
            return Codec.per_tensor(samples.flatten(0, 1), self.space.sizes)
        codec = Codec.fit(samples.flatten(0, 1), self.space.sizes, components=config.components)
        if config.eight_bits:
            return codec.in_eight_bits()
        if codec.basis is not None:
            # As precise as it will be stored, so that what is trained is what is loaded; in place, for its size.
            codec.basis.copy_(codec.basis.bfloat16())
        return codec

    def codes(self, experts: Sequence[int], codec: Codec, config: ICMConfig) -> Tensor:
        """Codes of some experts, the targets of the network, (len(experts), 1 + snapshots, k)."""
        samples = self._samples_of(experts)
        if config.scale == "pool":
            return codec.encode(samples)
        own = [Codec.per_tensor(point, self.space.sizes).encode(point) for point in samples.flatten(0, 1)]
        return torch.stack(own).reshape(samples.shape)

    def _samples_of(self, experts: Sequence[int]) -> Tensor:
        """Of all, no copy, since it may be large."""
        at = list(experts)
        return self.samples if at == list(range(len(self.samples))) else self.samples[at]

    def conditions(self, experts: Sequence[int]) -> ConditionCodec:
        """The condition codec fitted to some experts."""
        return ConditionCodec.fit([[states[expert] for expert in experts] for states in self.states.values()])

    def task_vectors(self, expert: int, *, shots: int) -> dict[EvidenceKind, Tensor]:
        """Task vectors (h,) of an expert's task from its first description and its first examples."""
        return {
            kind: states[expert][: 1 if kind == "description" else shots].mean(0)
            for kind, states in self.states.items()
        }


def read_experts(
    config: ICMTrainConfig, zoo: Zoo, encoder: TextEncoder, *, space: Frame | RawFactors | None = None
) -> ICMData:
    """Read a zoo's experts as vectors of a space, and the states of their descriptions and examples.

    By default the space is one that fits them.

    Raises:
        ZooError: the zoo has no expert, or an expert's statistics are damaged.
        ConfigError: texts are wanted as evidence and the config names no tasks.
        TaskError: an expert's task or its examples are missing.
        AdapterError: the experts' raw factors have no common layout.
    """
    library = ExpertIndex.of(zoo, encoder)
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    if space is None:
        space = RawFactors(adapters[0].spec) if config.icm.codec == "raw" else frame_of(zoo, adapters)
    samples = samples_of(zoo, space, adapters)
    reader = Reader.load(reading_of(config, zoo))
    return ICMData(
        samples,
        space,
        _states(config, zoo, reader, adapters),
        reader.reading.model_copy(update={"model_hash": reader.base.fingerprint}),
        library.index.vectors.float(),
    )


def reading_of(config: ICMTrainConfig, zoo: Zoo) -> Reading:
    """Reading of the task vectors, with the model that the config or else the zoo calls for."""
    base, are_imported = zoo.manifest.base, all(card.provenance.kind == "imported" for card in zoo)
    model = config.reading_model or (config.encoder if are_imported and config.through == "base" else base)
    return Reading(
        model=model,
        objective=zoo.manifest.recipe.objective if model == base else "label_text",
        pooling=config.pooling,
        through=config.through,
        max_length=config.max_length,
    )


def _states(
    config: ICMTrainConfig, zoo: Zoo, reader: Reader, adapters: Sequence[Lora]
) -> dict[EvidenceKind, tuple[Tensor, ...]]:
    wanted = config.icm.evidence
    tasks = _tasks(config, zoo) if set(wanted) != {"description"} else None
    found: dict[EvidenceKind, list[Tensor]] = {kind: [] for kind in wanted}
    for at, card in enumerate(zoo):
        pool = None if tasks is None else _pool(tasks[at], config)
        with reader.base.adapted(adapters[at] if config.through == "own_adapter" else None):
            for kind in wanted:
                if kind == "description":
                    found[kind].append(reader.descriptions(card.descriptions))
                else:
                    assert pool is not None
                    found[kind].append(reader.texts(pool) if kind == "texts" else reader.examples(pool))
    return {kind: tuple(states) for kind, states in found.items()}


def _tasks(config: ICMTrainConfig, zoo: Zoo) -> list[Task]:
    if config.tasks is None:
        raise ConfigError(
            f"The evidence {', '.join(config.icm.evidence)} is read from the experts' training texts, but the config "
            "names no 'tasks'; name the file that the zoo was built from, or set 'icm.evidence: [description]'."
        )
    task_set = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
    return [task_set[expert] for expert in zoo.ids]


def _pool(task: Task, config: ICMTrainConfig) -> Examples:
    examples = task.load_train()
    rng = torch.Generator().manual_seed(config.seed)
    return examples.subset(torch.randperm(len(examples), generator=rng)[: config.pool])


def episodes(
    data: ICMData,
    experts: Sequence[int],
    codes: Tensor,
    conditions: ConditionCodec,
    config: ICMTrainConfig,
    *,
    rng: torch.Generator,
) -> list[ICMBatch]:
    """One epoch: each sample draws a task, a point of its training, a fresh support, and which evidence there is.

    Args:
        data: states of the experts' prompts.
        experts: positions of the experts that take part.
        codes: their adapters, (len(experts), points, k).
        conditions: how task vectors are read.
        config: sizes and numbers of the batches.
        rng: the only source of randomness.
    """
    size = config.steps_per_epoch * config.batch_size
    tasks = torch.randint(len(experts), (size,), generator=rng)
    points = torch.randint(codes.shape[1], (size,), generator=rng)
    shots = torch.tensor(config.shots)[torch.randint(len(config.shots), (size,), generator=rng)]
    kinds = tuple(data.states)
    present = torch.rand(size, len(kinds), generator=rng) >= config.evidence_dropout
    lacking = ~present.any(1)
    present[lacking, torch.randint(len(kinds), (size,), generator=rng)[lacking]] = True
    vectors = []
    for task, number in zip(tasks.tolist(), shots.tolist(), strict=True):
        states = {kind: data.states[kind][experts[task]] for kind in kinds}
        # Texts and examples come from the same rows; at most as many as there are.
        rows = torch.randperm(max(len(s) for s in states.values()), generator=rng)
        vectors.append(
            torch.stack(
                [
                    s[int(rows[0]) % len(s)] if kind == "description" else s[rows[rows < len(s)][:number]].mean(0)
                    for kind, s in states.items()
                ]
            )
        )
    condition = conditions.encode(torch.stack(vectors), present)
    x = codes[tasks, points]
    return [ICMBatch(x[at], condition[at]) for at in torch.split(torch.arange(size), config.batch_size)]
