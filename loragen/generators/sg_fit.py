"""Trains SG-LoRA on a zoo: the expert library in codes, leave-one-out conditions, and the run itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from loragen.codec import Codec
from loragen.embedding import TextEncoder
from loragen.frame import Frame
from loragen.generators.conditions import ConditionCodec
from loragen.generators.library import Library, samples_of
from loragen.generators.polish import Own, PolishedTrainConfig, Unpolished, polish, subfolder
from loragen.generators.sg import SG, Mixture, SGBatch, SGConfig, SGLibrary, SGManifest, SGNetwork, SGObjective
from loragen.generators.task_loss import TaskBatch
from loragen.schedule import Schedule
from loragen.zoo import Zoo


class SGTrainConfig(PolishedTrainConfig):
    """What `loragen train` is told for SG-LoRA."""

    generator: Literal["sg"]
    sg: SGConfig = SGConfig()


@dataclass(frozen=True, eq=False)
class Material:
    """A zoo made ready for SG-LoRA: everything is in codes of one codec over one frame."""

    library: SGLibrary
    paraphrases: tuple[Tensor, ...]
    """For each expert the embeddings of its descriptions, (p, c)."""
    samples: Tensor
    """For each expert its mean and its snapshots, (n, 1 + snapshots, k)."""
    codec: Codec
    frame: Frame


def prepare(zoo: Zoo, encoder: TextEncoder, *, components: int | None) -> Material:
    """Read a zoo's experts into codes.

    Raises:
        ZooError: the zoo has no expert, or an expert's statistics are damaged.
    """
    library = Library.of(zoo, encoder)
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    frame = Frame.fit(adapters)
    samples = samples_of(zoo, frame, adapters)
    codec = Codec.fit(samples.flatten(0, 1), frame.sizes, components=components)
    codes = codec.encode(samples)
    return Material(
        SGLibrary(zoo.ids, codes[:, 0], _variances(zoo, frame, codec), library.index.vectors.float()),
        library.paraphrases,
        codes,
        codec,
        frame,
    )


def _variances(zoo: Zoo, frame: Frame, codec: Codec) -> Tensor:
    """Variances of the experts' codes over the last steps of training, (n, k); zero where nothing is known of them."""
    variances = torch.zeros(len(zoo), codec.size)
    known = [at for at, card in enumerate(zoo) if card.imported is None]
    if known:
        blocks = torch.stack([frame.flatten(zoo.variance(zoo.ids[at])) for at in known])
        variances[known] = codec.encode_variance(blocks)
    return variances


def training_batches(
    material: Material, config: SGConfig, *, steps: int, batch_size: int, rng: torch.Generator
) -> list[SGBatch]:
    """Batches of experts' adapters, each under a condition made from other experts.

    Each sample draws an expert, a point of its training, one of its descriptions, and who of the others may serve.
    """
    n, points, _ = material.samples.shape
    shape = (steps * batch_size,)
    experts = torch.randint(n, shape, generator=rng)
    queries = torch.stack(
        [
            material.paraphrases[expert][int(draw * len(material.paraphrases[expert]))]
            for expert, draw in zip(experts.tolist(), torch.rand(shape, generator=rng).tolist(), strict=True)
        ]
    )
    similarities = queries @ material.library.embeddings.T
    absent = torch.rand(similarities.shape, generator=rng) < config.expert_dropout
    if config.leave_one_out:
        absent |= torch.nn.functional.one_hot(experts, n).bool()
    similarities = similarities.masked_fill(absent & ~_too_few(absent, config.top_k), float("-inf"))
    if config.leave_one_out:
        similarities[torch.arange(len(experts)), experts] = float("-inf")
    weights = material.library.weights(similarities, top_k=config.top_k, temperature=config.temperature)
    mixture = material.library.mixture(weights)
    x = material.samples[experts, torch.randint(points, shape, generator=rng)]
    return [
        SGBatch(x[at], type(mixture)(mixture.mean[at], mixture.variance[at]))
        for at in torch.split(torch.arange(len(x)), batch_size)
    ]


def _too_few(absent: Tensor, top_k: int) -> Tensor:
    """Rows (b, 1) in which fewer than ``top_k`` experts are left: there only the task's own expert is left out."""
    return ((~absent).sum(1) < top_k)[:, None]


def fit_sg(
    config: SGTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[SG, list[dict[str, float]]]:
    """Train SG-LoRA on the experts of a zoo; returns the generator and its losses, a row a step.

    Raises:
        ConfigError: training on task loss is asked for, and the zoo, its base or the tasks to judge on will not do.
        TaskError: there too, a task or its examples are missing.
    """
    from loragen.training import fit

    material = prepare(zoo, encoder, components=config.sg.components)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SGNetwork(material.codec.size, config.sg)

    def batches(steps: int, rng: torch.Generator) -> list[SGBatch]:
        return training_batches(material, config.sg, steps=steps, batch_size=config.batch_size, rng=rng)

    own = Own(SGObjective(network, config.sg.kl_weight), batches)
    history: list[dict[str, float]] = []
    if config.objective != "task":
        history = fit(
            own.objective,
            own.of_epochs(config),
            Schedule(config.epochs, config.steps_per_epoch, config.learning_rate, weight_decay=config.weight_decay),
            seed=config.seed,
            checkpoints=subfolder(checkpoints, "weights"),
            on_step=on_step,
        )
    polished, codec = None, material.codec
    if config.objective != "weights":
        size = material.library.embeddings.shape[1]
        as_it_is = ConditionCodec(torch.zeros(1, size), torch.ones(1))
        coder = SGCoder(network, material.library, config.sg)
        generator = Unpolished(coder, material.codec, own, ("description",), encoder, as_it_is)
        polished, codec, of_tasks = polish(config, zoo, generator, checkpoints=checkpoints, on_step=on_step)
        history += of_tasks
    manifest = SGManifest(**SGManifest.facts(zoo, encoder), config=config.sg, polished=polished)
    trained = network.cpu().eval().requires_grad_(False)
    return SG(manifest, trained, material.library, codec, material.frame), history


class SGCoder(nn.Module):
    """The network and the experts of its conditions, as training on task loss wants them: from a batch to codes."""

    means: Tensor
    variances: Tensor
    embeddings: Tensor

    def __init__(self, network: SGNetwork, library: SGLibrary, config: SGConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.ids = library.ids
        # Buffers, which move between devices with the network; in no checkpoint, since they do not change.
        for name in ("means", "variances", "embeddings"):
            self.register_buffer(name, getattr(library, name), persistent=False)

    def mixture(self, batch: TaskBatch) -> Mixture:
        """The condition of the batch's task, of those experts alone that may help."""
        library = SGLibrary(self.ids, self.means, self.variances, self.embeddings)
        similarities = (self.embeddings @ batch.query[0]).masked_fill(~batch.allowed, float("-inf"))
        top_k, temperature = self.config.top_k, self.config.temperature
        return library.mixture(library.weights(similarities[None], top_k=top_k, temperature=temperature)[0])

    def forward(self, batch: TaskBatch) -> Tensor:
        """Codes (k,) of one draw from the prior in training, otherwise of its mean."""
        condition = self.mixture(batch)
        prior = self.network.prior_of(condition)
        noise = torch.randn_like(prior.mean) if self.training else torch.zeros_like(prior.mean)
        return self.network.decode(prior.sample(noise, scale=self.config.prior_scale), condition)
