"""Trains the hypernetwork: on the experts' weights, through the frozen base, or on the one and then the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.hyper.config import TaskTrainConfig
from loragen.generators.hyper.data import HyperData
from loragen.generators.hyper.episodes import episodes, evidence_of
from loragen.generators.hyper.judged_fit import Fitted, OpenedZoo, fit_judged, fit_through_base
from loragen.generators.hyper.model import Hyper, HyperConfig, HyperManifest, HyperNetwork
from loragen.generators.hyper.task_loss import TaskBatch
from loragen.generators.trained import rounded
from loragen.training.objective import Objective
from loragen.training.ranks import Rank
from loragen.training.schedule import Schedule
from loragen.values import MOST_STEPS
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo

WEIGHTS_BATCH = 32
"""Conditions a step of the training on weights."""


class HyperTrainConfig(TaskTrainConfig):
    """Settings of `loragen train` for the hypernetwork."""

    generator: Literal["hyper"]
    hyper: HyperConfig = HyperConfig()
    objective: Literal["weights", "task", "both"] = "task"
    """The experts' weights, the loss of their tasks' texts, or first the one and then the other."""
    weights_steps: int = Field(1000, ge=1, le=MOST_STEPS)
    """Of the training on weights, rounded up to whole epochs; that on tasks has ``epochs``."""
    condition_dropout: float = Field(0.1, ge=0, lt=1)
    """Share of the episodes in which nothing is known of the task."""
    noise: float = Field(0.1, ge=0)
    """Deviation of what is added to task vectors in training, whose components have one of about 1."""

    @model_validator(mode="after")
    def _told_through_the_base(self) -> Self:
        if self.told is not None and self.objective != "task":
            raise ValueError(
                "the experts' weights say nothing of tasks that are told; set 'objective: task' beside 'told'"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps of all trainings together."""
        return {
            "weights": self.weights_schedule.steps,
            "task": self.steps_of_a_training,
            "both": self.weights_schedule.steps + self.steps_of_a_training,
        }[self.objective]

    @property
    def weights_schedule(self) -> Schedule:
        """Of the training on weights."""
        per_epoch = min(self.steps_per_epoch, self.weights_steps)
        epochs = -(-self.weights_steps // per_epoch)
        return Schedule(epochs, per_epoch, self.learning_rate, weight_decay=self.weight_decay)


@dataclass(frozen=True, eq=False)
class WeightsBatch:
    """Evidence of some experts' tasks."""

    query: Tensor
    """Task vectors, (b, kinds, h)."""
    present: Tensor
    """Mask of the task vectors that there are, boolean (b, kinds)."""
    expert: Tensor
    """Numbers of the experts, (b,)."""

    def to(self, device: torch.device) -> "WeightsBatch":
        """The same batch on a device."""
        return WeightsBatch(self.query.to(device), self.present.to(device), self.expert.to(device))

    def part(self, rank: Rank) -> "WeightsBatch":
        """The rows of one of several processes."""
        rows = rank.rows(len(self.expert))
        return WeightsBatch(self.query[rows], self.present[rows], self.expert[rows])


class WeightsObjective(Objective):
    """Mean squared error of generated offsets from x₀ to the experts' own; at each site 1 is their mean square."""

    offsets: Tensor
    start: Tensor

    def __init__(self, network: HyperNetwork, offsets: Tensor, start: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("offsets", offsets, persistent=False)
        self.register_buffer("start", start, persistent=False)

    def loss(self, batch: WeightsBatch) -> dict[str, Tensor]:
        """The mean over the batch and over sites, each of which counts the same."""
        offsets = self.network.coordinates(batch.query, batch.present, self.start) - self.start
        errors, squares = (
            site_squares(x, self.network.sizes) for x in (offsets - self.offsets[batch.expert], self.offsets)
        )
        return {"loss": (errors / squares.clamp(min=torch.finfo(squares.dtype).tiny)).mean()}


def site_squares(coordinates: Tensor, sizes: list[int]) -> Tensor:
    """Mean square of each site of coordinates (n, d), (sites,)."""
    return torch.stack([part.square().mean() for part in torch.split(coordinates, sizes, 1)])


def fit_hyper(
    config: HyperTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Hyper, list[dict[str, float]]]:
    """Train a hypernetwork on a zoo; returns the generator and the losses of its last training, a row a step.

    In its last training the network is judged on left-out tasks, before and after every epoch, and kept as it was when
    it was worth most.

    Raises:
        ConfigError: the base has other weights here than the zoo was trained on, all experts are of one family or too
            few for the basis, or the tasks to judge on will not do.
        TaskError: a task or its examples are missing.
    """
    opened = OpenedZoo.open(config, zoo, config.hyper.evidence)
    data, embeddings = opened.data, ExpertIndex.of(zoo, encoder).index.vectors
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = HyperNetwork(data.keys.shape[-1], tuple(data.frame.sizes.values()), config.hyper)
    network.begin(data.offsets, data.start)
    fitted = _fit(config, opened, network, checkpoints, on_step)
    manifest = HyperManifest(
        **HyperManifest.facts(zoo, encoder),
        reading=data.reader.reading,
        config=config.hyper,
        epochs=fitted.epochs,
        worth=fitted.worth,
        more_tasks=() if config.objective == "weights" else tuple(data.more),
        told=config.told is not None,
    )
    generator = Hyper(manifest, rounded(network), data.start, data.conditions, data.frame, embeddings)
    return generator, fitted.history


def _fit(
    config: HyperTrainConfig,
    opened: OpenedZoo,
    network: HyperNetwork,
    checkpoints: Path | None,
    on_step: Callable[[int], None] | None,
) -> Fitted:
    data, schedule = opened.data, config.weights_schedule
    before = 0

    def report(step: int) -> None:
        if on_step is not None:
            on_step(before + step)

    def pairs(rng: torch.Generator) -> list[WeightsBatch]:
        return [weights_batch(data, config, rng=rng) for _ in range(schedule.steps_per_epoch)]

    def tasks(rng: torch.Generator) -> list[TaskBatch]:
        batches = episodes(data, config, rng=rng)
        noisy = [disturbed(batch.query, batch.present, config, rng=rng) for batch in batches]
        return [replace(b, query=query, present=present) for b, (query, present) in zip(batches, noisy, strict=True)]

    if config.objective != "task":
        fitted = fit_judged(
            WeightsObjective(network, data.offsets, data.start),
            network,
            pairs,
            schedule,
            opened.judge if config.objective == "weights" else None,
            seed=config.seed,
            checkpoints=None if checkpoints is None else checkpoints / "weights",
            on_step=report,
            devices=config.hardware,
        )
        before = schedule.steps
    if config.objective != "weights":
        folder = None if checkpoints is None else checkpoints / "task"
        fitted = fit_through_base(config, opened, network, tasks, checkpoints=folder, on_step=report)
    return fitted


def weights_batch(
    data: HyperData, config: HyperTrainConfig, *, rng: torch.Generator, rows: Sequence[int] | None = None
) -> WeightsBatch:
    """Experts drawn at random, of ``rows`` where these are given, each with what an episode knows, disturbed."""
    experts = torch.randint(len(data.tasks if rows is None else rows), (WEIGHTS_BATCH,), generator=rng)
    if rows is not None:
        experts = torch.tensor(rows)[experts]
    drawn = [evidence_of(data.tasks[expert][0], data, config, rng=rng) for expert in experts.tolist()]
    found = [disturbed(query, present, config, rng=rng) for query, present in drawn]
    return WeightsBatch(torch.stack([q for q, _ in found]), torch.stack([p for _, p in found]), experts)


def disturbed(
    query: Tensor, present: Tensor, config: HyperTrainConfig, *, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Task vectors (kinds, h) with noise, and which there are (kinds,): in some episodes none."""
    is_known = float(torch.rand((), generator=rng)) >= config.condition_dropout
    noisy = query + config.noise * torch.randn(query.shape, generator=rng)
    return noisy * (present & is_known)[:, None], present & is_known
