"""SG-LoRA that goes on learning: new experts in the codes of the old ones, in a library of all that the zoo holds."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError
from loragen.generators.learner import GoingOn, Learner, drawn_wordings, relative_errors
from loragen.generators.sg.fit import SGData, SGTrainConfig, code_variances, training_batches
from loragen.generators.sg.library import Mixture, SGLibrary
from loragen.generators.sg.model import SG, SGBatch, SGManifest, SGNetwork, SGObjective
from loragen.training.objective import Batch
from loragen.zoo.expert_index import ExpertIndex, samples_of
from loragen.zoo.zoo import Zoo


def go_on_sg(
    config: SGTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    going_on: GoingOn,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[SG, list[dict[str, float]]]:
    """Train an SG-LoRA further on the experts of a zoo; codec, frame and architecture stay those of the old one.

    The library holds the experts that the zoo holds: known ones as they are in the old library, whose codes stand for
    their weights wherever a strategy asks for these, and new ones in the same codes.

    Raises:
        GeneratorError: the old generator draws on many experts by lists, which are trained anew.
        ZooError: a new expert's files are damaged.
    """
    old = going_on.old
    assert isinstance(old, SG)
    if old.library.lists is not None or zoo.sharded is not None:
        raise GeneratorError(
            "A generator over a packed zoo is brought up to date by training it anew, which reads each expert once: "
            "--update joint."
        )
    data, network = _read(old, zoo, encoder), copy.deepcopy(old.network).requires_grad_(True)
    objective, known = SGObjective(network, old.config.kl_weight), set(old.library.ids)

    def draw(rows: Sequence[int], rng: torch.Generator) -> list[SGBatch]:
        steps, size = config.steps_per_epoch, config.batch_size
        return training_batches(data, old.config, steps=steps, batch_size=size, rng=rng, rows=rows)

    def imagine(rng: torch.Generator, noise: float) -> Sequence[Batch]:
        return _imagined(old, data, config, rng, noise)

    learner = Learner(
        network=network,
        objective=objective,
        imitation=objective,
        unseen=tuple(row for row, name in enumerate(zoo.ids) if name not in known),
        seen=tuple(row for row, name in enumerate(zoo.ids) if name in known),
        draw=draw,
        imagine=imagine,
        errors=lambda rows: _errors(network, old, data, rows),
        bytes_of_one=data.samples[0].numel() * data.samples.element_size(),
        schedule=config.schedule,
        seed=config.seed,
        devices=config.hardware,
    )
    history = going_on.fit(learner, checkpoints=checkpoints, on_step=on_step)
    manifest = SGManifest(**SGManifest.facts(zoo, encoder), config=old.config)
    return SG(manifest, network.cpu().eval().requires_grad_(False), data.library, old.codec, old.frame), history


def _read(old: SG, zoo: Zoo, encoder: TextEncoder) -> SGData:
    """The zoo's experts: known ones out of the old library, new ones from their files."""
    at = {name: row for row, name in enumerate(old.library.ids)}
    index = ExpertIndex.of(zoo, encoder)
    new = [name for name in zoo.ids if name not in at]
    means, variances = torch.empty(len(zoo), old.codec.size), torch.zeros(len(zoo), old.codec.size)
    points = 1
    if new:
        fresh = zoo.select(without=at.keys() & zoo.cards.keys())
        found = old.codec.encode(samples_of(fresh, old.frame, [fresh.adapter(name) for name in fresh.ids]))
        spread, points = code_variances(fresh, old.frame, old.codec), found.shape[1]
    samples = torch.empty(len(zoo), points, old.codec.size)
    for row, name in enumerate(zoo.ids):
        if name in at:
            means[row], variances[row] = old.library.means[at[name]], old.library.variances[at[name]]
            samples[row] = means[row]
        else:
            place = fresh.ids.index(name)
            means[row], variances[row], samples[row] = found[place, 0], spread[place], found[place]
    library = SGLibrary.of(zoo.ids, means, variances, index.index.vectors.float())
    return SGData(library, index.paraphrases, samples, old.codec, old.frame)


def _condition(library: SGLibrary, queries: Tensor, old: SG, without: Sequence[int] | None = None) -> Mixture:
    """Conditions for embeddings (b, c) as in generating; ``without`` has a row a query that may not serve."""
    similarities = queries @ library.embeddings.T
    if without is not None:
        similarities[torch.arange(len(queries)), torch.tensor(without)] = float("-inf")
    return library.nearest_mixture(similarities, top_k=old.config.top_k, temperature=old.config.temperature)


@torch.no_grad()
def _imagined(old: SG, data: SGData, config: SGTrainConfig, rng: torch.Generator, noise: float) -> list[SGBatch]:
    """Descriptions of old experts, and what the old generator makes of them over the old library.

    Experts that the zoo still holds are asked for in each of their wordings; of others the mean of them is known.
    """
    wordings = [
        data.paraphrases[data.library.ids.index(name)]
        if name in data.library.ids
        else old.library.embeddings[row][None]
        for row, name in enumerate(old.library.ids)
    ]
    size = config.steps_per_epoch * config.batch_size
    queries = drawn_wordings(wordings, size, rng=rng)
    then, now = _condition(old.library, queries, old), _condition(data.library, queries, old)
    prior = old.network.prior_of(then)
    z = prior.sample(torch.randn(prior.mean.shape, generator=rng), scale=old.config.prior_scale)
    made = old.network.decode(z, then)
    x = made + noise * torch.randn(made.shape, generator=rng)
    parts = torch.split(torch.arange(size), config.batch_size)
    return [SGBatch(x[at], Mixture(now.mean[at], now.variance[at])) for at in parts]


@torch.no_grad()
def _errors(network: SGNetwork, old: SG, data: SGData, rows: Sequence[int]) -> Tensor:
    """Of what is made for experts' first descriptions from the others, at the mean of the prior."""
    queries = torch.stack([data.paraphrases[row][0] for row in rows])
    condition, was_training = _condition(data.library, queries, old, without=rows), network.training
    network.eval()
    made = network.decode(network.prior_of(condition).mean, condition)
    network.train(was_training)
    return relative_errors(made, data.samples[list(rows), 0], data.library.means.mean(0))
