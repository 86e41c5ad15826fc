"""ICM-LoRA that goes on learning: new experts in the codes and conditions of the old ones."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.icm.episodes import ICMTrainConfig, episodes, read_experts
from loragen.generators.icm.model import ICM, ICMBatch, ICMManifest, ICMObjective
from loragen.generators.learner import GoingOn, Learner, drawn_wordings, read_descriptions, relative_errors
from loragen.generators.trained import rounded
from loragen.zoo.zoo import Zoo


def go_on_icm(
    config: ICMTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    going_on: GoingOn,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[ICM, list[dict[str, float]]]:
    """Train an ICM-LoRA further on the experts of a zoo; codec, conditions and architecture stay those of the old one.

    Raises:
        ConfigError: the old generator takes scales from the target itself, so that it has no codes of its own.
        TaskError: a task or its examples are missing.
        ZooError: an expert's files are damaged.
    """
    old = going_on.old
    assert isinstance(old, ICM)
    if old.config.scale == "target":
        raise ConfigError(
            "With 'scale: target' codes are the task's own; such a generator is trained anew, --update joint."
        )
    config = config.model_copy(update={"icm": old.config})
    data = read_experts(config, zoo, encoder, space=old.space)
    codes = data.codes(range(len(zoo)), old.codec, old.config)
    network, known = copy.deepcopy(old.network).requires_grad_(True), set(old.manifest.experts)
    objective = ICMObjective(network, old.config.kl_weight)

    def draw(rows: Sequence[int], rng: torch.Generator) -> list[ICMBatch]:
        return episodes(data, list(rows), codes[list(rows)], old.conditions, config, rng=rng)

    @torch.no_grad()
    def errors(rows: Sequence[int]) -> Tensor:
        conditions = torch.stack(
            [old.conditions.of(data.task_vectors(row, shots=max(config.shots)), old.evidence) for row in rows]
        )
        was_training = network.training
        network.eval()
        made = network.decode(conditions.new_zeros(len(rows), old.config.latent_size), conditions)
        network.train(was_training)
        return relative_errors(made, codes[list(rows), 0], codes[:, 0].mean(0))

    learner = Learner(
        network=network,
        objective=objective,
        imitation=objective,
        unseen=tuple(row for row, name in enumerate(zoo.ids) if name not in known),
        seen=tuple(row for row, name in enumerate(zoo.ids) if name in known),
        draw=draw,
        imagine=_Imagination(old, going_on, config),
        errors=errors,
        bytes_of_one=codes[0].numel() * codes.element_size(),
        schedule=config.schedule,
        seed=config.seed,
        devices=config.hardware,
    )
    history = going_on.fit(learner, checkpoints=checkpoints, on_step=on_step)
    manifest = ICMManifest(
        **ICMManifest.facts(zoo, encoder),
        reading=old.reading,
        config=old.config,
        factors=old.manifest.factors,
        epochs=config.epochs,
    )
    return ICM(manifest, rounded(network), old.conditions, old.codec, old.space, data.embeddings), history


class _Imagination:
    """Batches of old descriptions with what the old generator makes of them; they are read when first asked for."""

    def __init__(self, old: ICM, going_on: GoingOn, config: ICMTrainConfig) -> None:
        self.old, self.going_on, self.config = old, going_on, config
        self.states: list[Tensor] | None = None

    @torch.no_grad()
    def __call__(self, rng: torch.Generator, noise: float) -> list[ICMBatch]:
        old, size = self.old, self.config.steps_per_epoch * self.config.batch_size
        if self.states is None:
            self.states = read_descriptions(old.reading, old.evidence, self.going_on)
        vectors = drawn_wordings(self.states, size, rng=rng)
        condition = torch.stack([old.conditions.of({"description": vector}, old.evidence) for vector in vectors])
        z = old.config.prior_scale * torch.randn(size, old.config.latent_size, generator=rng)
        made = old.network.decode(z, condition)
        x = made + noise * torch.randn(made.shape, generator=rng)
        return [ICMBatch(x[part], condition[part]) for part in torch.split(torch.arange(size), self.config.batch_size)]
