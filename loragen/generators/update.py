"""Brings up to date what was made from a zoo before it changed: log, embeddings and, if asked for, generators."""

from dataclasses import dataclass
from pathlib import Path

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.listing import GeneratorInfo, list_generators
from loragen.generators.train import read_config, train_generator
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.zoo.changes import PATIENCE_S, last_change, note
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.tidy import tidy
from loragen.zoo.zoo import Zoo

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Updated:
    """What came of an update."""

    fingerprint: str
    """Of the zoo."""
    experts: int
    was_changed: bool
    """True if experts had come or gone without a line in the log, which has one now."""
    generators: tuple[GeneratorInfo, ...]
    """As they are now."""
    trained: tuple[str, ...]
    """Names of those that were trained again."""


def update_zoo(
    zoo: Zoo | Path | str,
    *,
    train: bool = False,
    encoder: TextEncoder | str = ENCODER,
    progress: Progress = silent,
) -> Updated:
    """Bring a zoo's log and embeddings up to date, and say which of its generators are behind.

    What processes left that were killed is put in order first. Embeddings of descriptions that are missing are computed
    and kept. A change that was made without the log, by a build or by hand, gets a line there.

    Args:
        zoo: the zoo, its folder, or the name of one.
        train: train again those generators that are behind, or that do not fit the zoo any more, with the config that
            is kept in their folders. Each takes the place of the old one when it is done; until then that can be used.
        encoder: embeds descriptions.
        progress: called with the stage, the steps done and their total.

    Raises:
        ZooError: there is no such zoo, or it is damaged.
        ConfigError: another process writes there.
        GeneratorError: a generator cannot be trained.
    """
    root = zoo.root if isinstance(zoo, Zoo) else Zoo.open(Path(zoo)).root
    with lock(root, wait_s=PATIENCE_S):
        here = Zoo.open(root)
        tidy(here)
        last = last_change(root)
        was_changed = last is not None and last.after != here.fingerprint
        if last is not None and was_changed:
            note(root, "found", last.after, here.fingerprint)
    ExpertIndex.of(here, TextEncoder.load(encoder) if isinstance(encoder, str) else encoder)
    generators = list_generators(here)
    trained = [one for one in generators if one.sentence() is not None] if train else []
    for one in trained:
        _train(one, here, progress)
    names = tuple(one.name for one in trained)
    return Updated(here.fingerprint, len(here), was_changed, list_generators(here) if trained else generators, names)


def _train(one: GeneratorInfo, zoo: Zoo, progress: Progress) -> None:
    """Train a generator with its own config, on the zoo that it lies in."""
    try:
        config = read_config(one.config).model_copy(update={"zoo": zoo.root, "out": one.folder})
    except ConfigError as error:
        raise ConfigError(
            f"The config that {one.name} was trained with cannot be read any more; train it with one of yours: loragen "
            f"train CONFIG --set out={one.folder} --force.\n{error}"
        ) from error
    stage = f"training {one.name}"
    train_generator(config, force=True, on_step=lambda step: progress(stage, step, config.steps))
