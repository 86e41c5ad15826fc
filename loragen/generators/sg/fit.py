"""Trains SG-LoRA on a zoo: the expert library in codes, leave-one-out conditions, and the run itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from loragen.adapters.codec import Codec
from loragen.adapters.frame import Frame
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.sg.library import Mixture, SGLibrary
from loragen.generators.sg.model import SG, SGBatch, SGConfig, SGManifest, SGNetwork, SGObjective
from loragen.generators.trained import TrainConfig, subfolder
from loragen.zoo.coordinates import Coordinates, spread
from loragen.zoo.expert_index import ExpertIndex, samples_of
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo

MOST_FITTED = 1_024
"""Experts of a packed zoo that principal directions are fitted to."""
MOST_SIMILARITIES = 2**24
"""Similarities of tasks and experts that a training looks at together."""


class SGTrainConfig(TrainConfig):
    """Settings of `loragen train` for SG-LoRA."""

    generator: Literal["sg"]
    sg: SGConfig = SGConfig()

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_of_a_training


@dataclass(frozen=True, eq=False)
class SGData:
    """The experts of a zoo in codes of one codec over one frame."""

    library: SGLibrary
    paraphrases: Sequence[Tensor]
    """For each expert the embeddings of its descriptions, (p, c)."""
    samples: Tensor
    """For each expert its mean and its snapshots, (n, 1 + snapshots, k)."""
    codec: Codec
    frame: Frame


def read_experts(zoo: Zoo, encoder: TextEncoder, *, components: int | None, eight_bits: bool = False) -> SGData:
    """Read a zoo's experts into codes.

    Raises:
        ZooError: the zoo has no expert, or an expert's statistics are damaged.
    """
    library = ExpertIndex.of(zoo, encoder)
    if zoo.sharded is not None and len(zoo) > MOST_FITTED:
        return _read_many(zoo, library, components, eight_bits=eight_bits)
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    frame = frame_of(zoo, adapters)
    samples = samples_of(zoo, frame, adapters)
    codec = Codec.fit(samples.flatten(0, 1), frame.sizes, components=components)
    codec = codec.in_eight_bits() if eight_bits else codec
    codes = codec.encode(samples)
    return SGData(
        SGLibrary.of(zoo.ids, codes[:, 0], code_variances(zoo, frame, codec), library.index.vectors.float()),
        library.paraphrases,
        codes,
        codec,
        frame,
    )


def _read_many(zoo: Zoo, library: ExpertIndex, components: int | None, *, eight_bits: bool) -> SGData:
    """Read the experts of a packed zoo into codes, some at a time; the codec is fitted to some, evenly spread.

    Raises:
        ConfigError: all coordinates were asked for.
    """
    if components is None:
        raise ConfigError(
            f"All coordinates of {len(zoo):,} experts were asked for ('components: null'); give a number of principal "
            "directions, such as 100."
        )
    coordinates = Coordinates.of(zoo)
    codec = Codec.fit(coordinates.at(spread(len(zoo), MOST_FITTED)), coordinates.frame.sizes, components=components)
    codec = codec.in_eight_bits() if eight_bits else codec
    codes = torch.empty(len(zoo), codec.size)
    for part, some in coordinates:
        codes[part] = codec.encode(some)
    known = SGLibrary.of(zoo.ids, codes, torch.zeros_like(codes), library.index.vectors.float())
    return SGData(known, library.paraphrases, codes[:, None], codec, coordinates.frame)


def code_variances(zoo: Zoo, frame: Frame, codec: Codec) -> Tensor:
    """Variances of the experts' codes over the last steps of training, (n, k); zero where nothing is known of them."""
    variances = torch.zeros(len(zoo), codec.size)
    known = [at for at, card in enumerate(zoo) if card.has_trajectory]
    if known:
        blocks = torch.stack([frame.flatten(zoo.variance(zoo.ids[at])) for at in known])
        variances[known] = codec.encode_variance(blocks)
    return variances


def training_batches(
    data: SGData,
    config: SGConfig,
    *,
    steps: int,
    batch_size: int,
    rng: torch.Generator,
    rows: Sequence[int] | None = None,
) -> list[SGBatch]:
    """Batches of experts' adapters, each under a condition of other experts.

    Each sample draws an expert, one of ``rows`` where these are given, a point of its training, one of its
    descriptions, and who of the others may serve.
    """
    n, points, _ = data.samples.shape
    shape = (steps * batch_size,)
    experts = torch.randint(n if rows is None else len(rows), shape, generator=rng)
    if rows is not None:
        experts = torch.tensor(rows)[experts]
    queries = torch.stack(
        [
            data.paraphrases[expert][int(draw * len(data.paraphrases[expert]))]
            for expert, draw in zip(experts.tolist(), torch.rand(shape, generator=rng).tolist(), strict=True)
        ]
    )
    parts = torch.split(torch.arange(len(experts)), max(1, MOST_SIMILARITIES // n))
    mixed = [_conditions(data, config, experts[part], queries[part], rng) for part in parts]
    mixture = Mixture(torch.cat([each.mean for each in mixed]), torch.cat([each.variance for each in mixed]))
    x = data.samples[experts, torch.randint(points, shape, generator=rng)]
    return [
        SGBatch(x[at], Mixture(mixture.mean[at], mixture.variance[at]))
        for at in torch.split(torch.arange(len(x)), batch_size)
    ]


def _conditions(data: SGData, config: SGConfig, experts: Tensor, queries: Tensor, rng: torch.Generator) -> Mixture:
    """Conditions of some experts (b,) for descriptions' embeddings (b, c)."""
    similarities = queries @ data.library.embeddings.T
    absent = torch.rand(similarities.shape, generator=rng) < config.expert_dropout
    rows = torch.arange(len(experts))
    if config.leave_one_out:
        absent[rows, experts] = True
    similarities = similarities.masked_fill(absent & ~_too_few(absent, config.top_k), float("-inf"))
    if config.leave_one_out:
        similarities[rows, experts] = float("-inf")
    return data.library.nearest_mixture(similarities, top_k=config.top_k, temperature=config.temperature)


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
        ConfigError: the zoo has one expert alone, and an expert takes no part in its own condition.
        ZooError: the zoo has no expert, or an expert's statistics are damaged.
    """
    from loragen.training.lightning_fit import fit

    if config.sg.leave_one_out and len(zoo) < 2:
        raise ConfigError(
            f"The zoo {zoo.root} has one expert alone, and with 'sg.leave_one_out' it learns from others; add experts, "
            "or set sg.leave_one_out=false."
        )
    data = read_experts(zoo, encoder, components=config.sg.components, eight_bits=config.sg.eight_bits)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = SGNetwork(data.codec.size, config.sg)

    def batches(epoch: int) -> list[SGBatch]:
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        return training_batches(data, config.sg, steps=config.steps_per_epoch, batch_size=config.batch_size, rng=rng)

    history = fit(
        SGObjective(network, config.sg.kl_weight),
        batches,
        config.schedule,
        seed=config.seed,
        checkpoints=subfolder(checkpoints, "weights"),
        on_step=on_step,
        devices=config.hardware,
    )
    manifest = SGManifest(**SGManifest.facts(zoo, encoder), config=config.sg)
    if data.library.lists is not None:
        manifest = manifest.model_copy(update={"experts": ()})  # the library names them
    trained = network.cpu().eval().requires_grad_(False)
    return SG(manifest, trained, data.library, data.codec, data.frame), history
