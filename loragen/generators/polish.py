"""Trains a generator of weights on task loss as well: on texts of a task, under an adapter drawn for it.

The loss of a step is that of the texts (`task_loss`) under the adapter of one draw of z, plus the generator's own loss
on a batch of experts, without which the latent would collapse and draws would no longer differ. What is made is shifted
from the adapter for all tasks to that of a fold that has not seen the task, so that the network learns what helps where
a task is new; a generation is shifted to the mean of the folds. Left-out tasks choose the epoch, judged at the prior's
mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from loragen.codec import Codec
from loragen.embedding import TextEncoder
from loragen.generators.conditions import ConditionCodec
from loragen.generators.task_episodes import TaskSettings, TaskTrainConfig, episodes
from loragen.generators.task_fit import Ground, fit_judged
from loragen.generators.task_loss import TaskBatch, TaskObjective
from loragen.generators.trained import Polished, TrainConfig
from loragen.objective import Batch, Objective
from loragen.schedule import Schedule
from loragen.task_vectors import Evidence, Reading
from loragen.zoo import Zoo


class PolishConfig(TaskSettings):
    """What training on task loss is told beside what training on weights is: see there for the rest."""

    epochs: int = Field(5, ge=1)
    steps_per_epoch: int = Field(100, ge=1)
    batch_size: int = Field(32, ge=1)
    """Texts of a step."""
    learning_rate: float = Field(1e-3, gt=0)
    reconstruction_weight: float = Field(1.0, ge=0)
    """Of the generator's own loss, reconstruction and KL, as training on weights has it; 'objective: task' does without
    it."""


class PolishedTrainConfig(TrainConfig):
    """What `loragen train` is told for a generator that learns weights, and may learn from task loss."""

    objective: Literal["weights", "task", "both"] = "weights"
    """What is learnt: the experts' weights, what serves their tasks, or first the one and then the other."""
    polish: PolishConfig | None = None
    """For task loss."""

    @model_validator(mode="after")
    def _polish_is_given(self) -> Self:
        if self.objective != "weights" and self.polish is None:
            raise ValueError(f"'objective: {self.objective}' wants 'polish', at least its 'tasks'")
        return self

    @property
    def weights_steps(self) -> int:
        """Optimiser steps of the training on weights, where there is one."""
        return super().steps

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        on_weights = 0 if self.objective == "task" else self.weights_steps
        return on_weights + (0 if self.objective == "weights" else self.on_tasks().steps)

    def on_tasks(self) -> TaskTrainConfig:
        """The training on task loss as a run of its own; ``polish`` stands above what it shares with this config."""
        assert self.polish is not None
        values = dict(self) | dict(self.polish)
        return TaskTrainConfig(
            **{name: value for name, value in values.items() if name in TaskTrainConfig.model_fields}
        )


@dataclass(frozen=True, eq=False)
class Own:
    """A generator's own loss."""

    objective: Objective
    batches: Callable[[int, torch.Generator], Sequence[Batch]]
    """From a number of steps and a random source to as many batches of experts."""

    def of_epochs(self, config: TrainConfig) -> Callable[[int], Sequence[Batch]]:
        """The batches of training on weights, by the number of an epoch."""

        def batches(epoch: int) -> Sequence[Batch]:
            return self.batches(config.steps_per_epoch, torch.Generator().manual_seed(config.seed * 1_000_003 + epoch))

        return batches


@dataclass(frozen=True, eq=False)
class Unpolished:
    """A generator as training on task loss takes it."""

    coder: nn.Module
    """From a batch to codes, (k,): of one draw of z in training, otherwise at the mean of the prior."""
    codec: Codec
    """From codes to coordinates."""
    own: Own
    """Of the coder's network."""
    evidence: tuple[Evidence, ...]
    """Kinds of it that are read."""
    reading: Reading | TextEncoder
    """How; a text encoder reads descriptions alone."""
    conditions: ConditionCodec
    """How what is read becomes a query."""


class PolishMaker(nn.Module):
    """From a batch to coordinates, (d,): codes by ``coder``, decoded, and shifted to where the batch starts from."""

    centre: Tensor
    scale: Tensor
    basis: Tensor | None
    origin: Tensor

    def __init__(self, coder: nn.Module, codec: Codec, origin: Tensor) -> None:
        super().__init__()
        self.coder = coder
        # Buffers, which move between devices with the network; in no checkpoint, since they do not change.
        parts = {"centre": codec.centre, "scale": codec.scale, "basis": codec.basis, "origin": origin}
        for name, value in parts.items():
            self.register_buffer(name, value, persistent=False)

    def forward(self, batch: TaskBatch) -> Tensor:
        """For the batch's task: of one draw of z in training, otherwise at the mean of the prior."""
        coordinates = Codec(self.centre, self.scale, self.basis).decode(self.coder(batch))
        return coordinates + (batch.start - self.origin)


@dataclass(frozen=True, eq=False)
class PolishBatch:
    """Texts of one task, and some experts for the generator's own loss."""

    task: TaskBatch
    experts: Batch

    def to(self, device: torch.device) -> "PolishBatch":
        """The same batch on a device."""
        return PolishBatch(self.task.to(device), self.experts.to(device))


class PolishObjective(Objective):
    """The loss of a task's texts, plus ``weight`` times the generator's own loss."""

    def __init__(self, task: TaskObjective, own: Objective, weight: float) -> None:
        super().__init__()
        self.task = task
        self.own = own
        self.weight = weight

    def loss(self, batch: PolishBatch) -> dict[str, Tensor]:
        """Both losses, and the parts of either."""
        task, own = self.task.loss(batch.task), self.own.loss(batch.experts)
        return task | own | {"loss": task["loss"] + self.weight * own["loss"]}


def polish(
    config: PolishedTrainConfig,
    zoo: Zoo,
    generator: Unpolished,
    *,
    checkpoints: Path | None,
    on_step: Callable[[int], None] | None,
) -> tuple[Polished, Codec, list[dict[str, float]]]:
    """Train a generator in place on the experts' tasks; returns what came of it, and its losses, a row a step.

    The codec that comes back makes of codes what was judged: shifted to where a generation begins.

    Args:
        config: of the whole run.
        zoo: the experts.
        generator: trained on weights or untrained.
        checkpoints: folder of the whole run; state is kept in a folder of its own there.
        on_step: called with the number of steps done of the whole run.

    Raises:
        ConfigError: the base has other weights here than the zoo was trained on, all experts are of one family, or the
            tasks to judge on will not do.
        TaskError: a task or its examples are missing.
    """
    assert config.polish is not None
    assert config.objective != "weights"
    told, own = config.on_tasks(), generator.own
    ground = Ground.open(told, zoo, generator.evidence, reading=generator.reading, conditions=generator.conditions)
    material = ground.material
    maker = PolishMaker(generator.coder, generator.codec, material.origin)
    on_texts = TaskObjective(ground.backbone, maker, material.frame, contrast_weight=told.contrast_weight)
    weight = config.polish.reconstruction_weight if config.objective == "both" else 0.0

    def draw(rng: torch.Generator) -> Sequence[Batch]:
        batches = episodes(material, told, rng=rng)
        if not weight:
            return batches
        experts = own.batches(told.steps_per_epoch, rng)
        return [PolishBatch(task, some) for task, some in zip(batches, experts, strict=True)]

    before = config.steps - told.steps
    fitted = fit_judged(
        PolishObjective(on_texts, own.objective, weight) if weight else on_texts,
        maker,
        draw,
        Schedule(told.epochs, told.steps_per_epoch, told.learning_rate, weight_decay=told.weight_decay),
        ground.judge,
        seed=config.seed,
        checkpoints=subfolder(checkpoints, "task"),
        on_step=None if on_step is None else lambda step: on_step(before + step),
    )
    polished = Polished(objective=config.objective, epochs=fitted.epochs, worth=fitted.worth)
    shifted = replace(generator.codec, centre=generator.codec.centre + (material.start - material.origin))
    return polished, shifted, fitted.history


def subfolder(folder: Path | None, name: str) -> Path | None:
    """A folder for one part of a run, where its state is kept at all."""
    return None if folder is None else folder / name
