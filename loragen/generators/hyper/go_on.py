"""A hypernetwork that goes on learning: new experts in the frame and conditions of the old ones."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.hyper.episodes import episodes
from loragen.generators.hyper.fit import (
    WEIGHTS_BATCH,
    HyperTrainConfig,
    WeightsObjective,
    disturbed,
    site_squares,
    weights_batch,
)
from loragen.generators.hyper.judged_fit import OpenedZoo
from loragen.generators.hyper.model import Hyper, HyperManifest, HyperNetwork
from loragen.generators.hyper.task_loss import TaskObjective
from loragen.generators.learner import GoingOn, Learner, drawn_wordings, read_descriptions, relative_errors
from loragen.generators.trained import rounded
from loragen.training.objective import Batch, Objective
from loragen.training.ranks import Rank
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo


def go_on_hyper(
    config: HyperTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    going_on: GoingOn,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[Hyper, list[dict[str, float]]]:
    """Train a hypernetwork further on the experts of a zoo; frame, start, conditions and architecture stay.

    New experts are learnt from their weights with ``objective: weights``, otherwise through the frozen base; what the
    old network made of old descriptions, always as weights. No left-out task is judged on: it goes to the end.

    Raises:
        ConfigError: the base has other weights here than the zoo was trained on, or the old network's prompts told
            tasks and the new ones would not, or the other way round.
        TaskError: a task or its examples are missing.
        ZooError: an expert's files are damaged.
    """
    old = going_on.old
    assert isinstance(old, Hyper)
    if old.manifest.told != (config.told is not None):
        told = "told their tasks" if old.manifest.told else "not told their tasks"
        raise ConfigError(f"The generator's adapters are {told}; keep 'told' as it was when it was trained.")
    config = config.model_copy(update={"hyper": old.manifest.config, "judged_on": None, "more_tasks": None})
    opened = OpenedZoo.open(config, zoo, old.evidence, frame=old.frame)
    data = replace(opened.data, conditions=old.conditions, start=old.start)
    network, known = copy.deepcopy(old.network).requires_grad_(True), set(old.manifest.experts)
    by_weights = config.objective == "weights"
    objective: Objective = WeightsObjective(network, data.offsets, old.start)
    if not by_weights:
        objective = TaskObjective(opened.base, network, old.frame, contrast_weight=config.contrast_weight)

    def draw(rows: Sequence[int], rng: torch.Generator) -> Sequence[Batch]:
        if by_weights:
            return [weights_batch(data, config, rng=rng, rows=rows) for _ in range(config.steps_per_epoch)]
        found = episodes(data, config, rng=rng, rows=rows)
        noisy = [disturbed(batch.query, batch.present, config, rng=rng) for batch in found]
        return [replace(b, query=query, present=present) for b, (query, present) in zip(found, noisy, strict=True)]

    @torch.no_grad()
    def errors(rows: Sequence[int]) -> Tensor:
        asked = torch.stack([data.query(zoo.card(zoo.ids[row]).description) for row in rows])
        made = _made(network, asked, old) - old.start
        return relative_errors(made, data.offsets[list(rows)], data.offsets.mean(0))

    learner = Learner(
        network=network,
        objective=objective,
        imitation=ImitationObjective(network, old.start),
        unseen=tuple(row for row, name in enumerate(zoo.ids) if name not in known),
        seen=tuple(row for row, name in enumerate(zoo.ids) if name in known),
        draw=draw,
        imagine=_Imagination(old, going_on, config.steps_per_epoch),
        errors=errors,
        bytes_of_one=data.offsets[0].numel() * data.offsets.element_size(),
        schedule=config.schedule,
        seed=config.seed,
        devices=config.hardware,
    )
    history = going_on.fit(learner, checkpoints=checkpoints, on_step=on_step)
    manifest = HyperManifest(
        **HyperManifest.facts(zoo, encoder),
        reading=old.reading,
        config=old.manifest.config,
        epochs=config.epochs,
        more_tasks=old.manifest.more_tasks,
        told=old.manifest.told,
    )
    embeddings = ExpertIndex.of(zoo, encoder).index.vectors
    return Hyper(manifest, rounded(network), old.start, old.conditions, old.frame, embeddings), history


def _made(network: HyperNetwork, queries: Tensor, old: Hyper) -> Tensor:
    """Coordinates for queries (b, kinds, h) of descriptions alone, (b, d), as in generating."""
    present = torch.tensor([kind == "description" for kind in old.evidence]).expand(len(queries), -1)
    was_training = network.training
    network.eval()
    made = network.coordinates(queries, present, old.start)
    network.train(was_training)
    return made


@dataclass(frozen=True, eq=False)
class ImaginedBatch:
    """Old descriptions, and what is to be made of them."""

    query: Tensor
    """Task vectors, (b, kinds, h)."""
    present: Tensor
    """Mask of the task vectors that there are, boolean (b, kinds)."""
    target: Tensor
    """Offsets from x₀, (b, d)."""

    def to(self, device: torch.device) -> "ImaginedBatch":
        """The same batch on a device."""
        return ImaginedBatch(self.query.to(device), self.present.to(device), self.target.to(device))

    def part(self, rank: Rank) -> "ImaginedBatch":
        """The rows of one of several processes."""
        rows = rank.rows(len(self.query))
        return ImaginedBatch(self.query[rows], self.present[rows], self.target[rows])


class ImitationObjective(Objective):
    """Mean squared error of offsets to those that the old network made; at each site 1 is their mean square."""

    start: Tensor

    def __init__(self, network: HyperNetwork, start: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("start", start, persistent=False)

    def loss(self, batch: ImaginedBatch) -> dict[str, Tensor]:
        """The mean over the batch and over sites, each of which counts the same."""
        offsets = self.network.coordinates(batch.query, batch.present, self.start) - self.start
        errors, squares = (site_squares(x, self.network.sizes) for x in (offsets - batch.target, batch.target))
        return {"loss": (errors / squares.clamp(min=torch.finfo(squares.dtype).tiny)).mean()}


class _Imagination:
    """Batches of old descriptions with what the old network makes of them; they are read when first asked for."""

    def __init__(self, old: Hyper, going_on: GoingOn, steps: int) -> None:
        self.old, self.going_on, self.steps = old, going_on, steps
        self.states: list[Tensor] | None = None

    @torch.no_grad()
    def __call__(self, rng: torch.Generator, noise: float) -> list[ImaginedBatch]:
        old = self.old
        if self.states is None:
            self.states = read_descriptions(old.reading, old.evidence, self.going_on)
        present = torch.tensor([kind == "description" for kind in old.evidence])
        batches = []
        for _ in range(self.steps):
            vectors = drawn_wordings(self.states, WEIGHTS_BATCH, rng=rng)
            found = [old.conditions.of({"description": vector}, old.evidence) for vector in vectors]
            query = torch.stack(found).reshape(WEIGHTS_BATCH, len(old.evidence), -1)
            made = _made(old.network, query, old) - old.start
            spread = noise * made.square().mean().sqrt() * torch.randn(made.shape, generator=rng)
            batches.append(ImaginedBatch(query, present.expand(WEIGHTS_BATCH, -1), made + spread))
        return batches
