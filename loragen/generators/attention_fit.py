"""Trains attention over experts through the frozen base; left-out tasks choose how long."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from loragen.embedding import TextEncoder
from loragen.generators.attention import (
    Attention,
    AttentionConfig,
    AttentionMaker,
    AttentionManifest,
    AttentionNetwork,
    Experts,
)
from loragen.generators.task_episodes import TaskTrainConfig, episodes
from loragen.generators.task_fit import Ground, fit_through_base
from loragen.generators.task_loss import TaskBatch
from loragen.zoo import Zoo


class AttentionTrainConfig(TaskTrainConfig):
    """What `loragen train` is told for attention over experts."""

    generator: Literal["attention"]
    attention: AttentionConfig = AttentionConfig()


def fit_attention(
    config: AttentionTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Attention, list[dict[str, float]]]:
    """Train attention over the experts of a zoo; returns the generator and its losses, a row a step.

    The network is judged on left-out tasks before training and after every epoch, and kept as it was when it was worth
    most: before training it is the cheap rival, which stays if nothing betters it.

    Raises:
        ConfigError: the base has other weights here than the zoo was trained on, all experts are of one family, or the
            tasks to judge on will not do.
        TaskError: a task or its examples are missing.
    """
    ground = Ground.open(config, zoo, config.attention.evidence)
    material = ground.material
    experts = Experts(material.keys, material.offsets, material.start)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = AttentionNetwork(material.keys.shape[-1], tuple(material.frame.sizes.values()), config.attention)

    def draw(rng: torch.Generator) -> list[TaskBatch]:
        return episodes(material, config, rng=rng)

    maker = AttentionMaker(network, experts)
    fitted = fit_through_base(config, ground, maker, draw, checkpoints=checkpoints, on_step=on_step)
    manifest = AttentionManifest(
        **AttentionManifest.facts(zoo, encoder),
        reading=material.reading,
        config=config.attention,
        epochs=fitted.epochs,
        worth=fitted.worth,
    )
    trained = network.cpu().eval().requires_grad_(False)
    return Attention(manifest, trained, experts, material.conditions, material.frame), fitted.history
