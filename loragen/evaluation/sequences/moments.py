"""Zoos of a sequence: copies of some experts, whose cards lack one wording of the task, which is kept to ask with."""

import shutil
from collections.abc import Collection
from pathlib import Path

from loragen.errors import ConfigError, ZooError, shown
from loragen.files import atomic_folder, atomic_write
from loragen.zoo.card import CARD, EXPERTS, ZOO_MANIFEST
from loragen.zoo.zoo import Zoo


def asked_with(zoo: Zoo, expert: str) -> str:
    """The wording that generators of a sequence do not see: the last of the card.

    Raises:
        ConfigError: the card has one wording alone.
    """
    descriptions = zoo.card(expert).descriptions
    if len(descriptions) < 2:
        raise ConfigError(
            f"The expert {shown(expert)} has one description alone, which its generator has read; a sequence asks "
            "with another wording, so give its card a paraphrase or leave it out."
        )
    return descriptions[-1]


def write_zoo(zoo: Zoo, experts: Collection[str], out: Path) -> Path:
    """Write the zoo of some experts of a zoo, whole or not at all; one that is there stays.

    Raises:
        ZooError: the zoo is packed, or has no such expert.
        ConfigError: a card has one wording alone.
    """
    if out.exists():
        return out
    if zoo.sharded is not None:
        raise ZooError(f"The zoo {zoo.root} is packed; a sequence copies experts that have folders of their own.")
    with atomic_folder(out, replace=False) as folder:
        manifest = zoo.manifest.model_copy(update={"folds": None})
        atomic_write(folder / ZOO_MANIFEST, manifest.to_yaml())
        for expert in experts:
            asked_with(zoo, expert)
            copied = folder / EXPERTS / expert
            shutil.copytree(zoo.folder(expert), copied)
            card = zoo.card(expert)
            atomic_write(copied / CARD, card.model_copy(update={"paraphrases": card.paraphrases[:-1]}).to_yaml())
    return out
