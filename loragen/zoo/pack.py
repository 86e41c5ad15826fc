"""Packs a zoo: the same experts and generators in a fraction of the bytes and in few files, however many they are."""

import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.errors import ZooError
from loragen.files import MANIFEST, atomic_folder
from loragen.zoo.card import MULTITASK_FOLDER, ZOO_MANIFEST, Card
from loragen.zoo.card_table import TABLE, Place, create_table, insert, writing
from loragen.zoo.changes import CHANGES
from loragen.zoo.folds import FOLDS
from loragen.zoo.shards import Shared, write_shards
from loragen.zoo.start import START
from loragen.zoo.zoo import Zoo

TAKEN = (MULTITASK_FOLDER, FOLDS, "generators", "embeddings", "confidence")
"""Folders that go along as they are."""
FILES = (ZOO_MANIFEST, START, CHANGES)
"""Files that do: an expert that is added later begins where the others began."""


def pack_zoo(zoo: Zoo | Path, out: Path, *, replace: bool = False) -> Zoo:
    """Write a zoo whose experts lie in shards and their cards in one table.

    What only the training of generators needs is left out: variances and snapshots. Generators that were trained on the
    zoo fit the packed one as well; what is trained on it knows no variances.

    Args:
        zoo: a zoo or its folder, or a selection of its experts.
        out: folder of the packed zoo.
        replace: take the place of a packed zoo that stands there.

    Raises:
        ZooError: there is no such zoo, or its experts do not share their A.
        ConfigError: something stands at ``out``.
    """
    source = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    with atomic_folder(out, replace=replace) as folder:
        write_packed(folder, ((source.card(expert), source.adapter(expert)) for expert in source.ids))
        for name in FILES:
            if (source.root / name).is_file():
                shutil.copyfile(source.root / name, folder / name)
        for name in TAKEN:
            if (source.root / name).is_dir():
                shutil.copytree(source.root / name, folder / name, ignore=_hidden)
    return Zoo.open(out)


def _hidden(_folder: str, names: list[str]) -> list[str]:
    """Unfinished states and what was half written; manifests of folders go along."""
    return [name for name in names if name.startswith(".") and name != MANIFEST]


def write_packed(folder: Path, experts: Iterable[tuple[Card, Lora]]) -> None:
    """Write cards and weights of experts, which are read one by one, into the folder of a packed zoo to be.

    Raises:
        ZooError: there are none, or they do not share their A, settings and type.
    """
    (folder / TABLE).unlink(missing_ok=True)
    create_table(folder / TABLE)
    coming = iter(experts)
    if (first := next(coming, None)) is None:
        raise ZooError("There is no expert to pack; build or import one first.")
    cards: list[Card] = []

    def told() -> Iterator[tuple[str, Lora]]:
        for card, adapter in chain([first], coming):
            cards.append(card)
            yield card.id, adapter

    def placed(places: Iterable[Place]) -> Iterator[tuple[Card, Place]]:
        for place in places:
            yield cards.pop(), place

    with writing(folder / TABLE) as table:
        insert(table, placed(write_shards(folder, Shared.of(first[1]), told())))
