"""The cards of a zoo, wherever they lie: in a folder an expert, or in one table."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from loragen.config import read_yaml
from loragen.errors import ConfigError, ZooError, cut, shown
from loragen.zoo.card import CARD, EXPERTS, Card
from loragen.zoo.card_table import TABLE, CardTable


def read_cards(root: Path) -> Mapping[str, Card]:
    """The cards of a zoo by id, in alphabetical order: of a packed one as a table, else of the experts' folders.

    An expert that is removed meanwhile is left out.

    Raises:
        ZooError: one is damaged or another's, or a folder is a link out of the zoo.
    """
    if (root / TABLE).exists():
        return CardTable.open(root / TABLE)
    folders = sorted(path.parent for path in (root / EXPERTS).glob(f"[!.]*/{CARD}"))
    _refuse_links_out(root, folders)
    cards: dict[str, Card] = {}
    for folder in folders:
        try:
            cards[folder.name] = Card.checked(read_yaml(folder / CARD), source=str(folder))
        except ConfigError as error:
            if folder.exists():
                raise ZooError(
                    f"A card of the zoo is damaged; restore it, or remove its folder and build again.\n{error}"
                ) from error
    for name, card in cards.items():
        if card.id != name:
            raise ZooError(f"{root / EXPERTS / name} holds the card of {shown(card.id)}; restore it, or remove it.")
    return cards


def refuse_packed(root: Path) -> None:
    """Refuse a packed zoo where folders of experts are to be written: nobody would read them there.

    Raises:
        ZooError: the zoo is packed.
    """
    if (root / TABLE).exists():
        raise ZooError(
            f"The zoo {cut(root)} is packed and takes no folders of experts; write to the zoo that it was packed from, "
            "and pack that again."
        )


def narrowed(
    cards: Mapping[str, Card],
    splits: Collection[str] | None,
    licences: Collection[str] | None,
    without: Collection[str],
) -> Mapping[str, Card]:
    """The cards of these splits and licences, without some by id; licences are compared upper and lower case alike."""
    if isinstance(cards, CardTable):
        return cards.narrowed(splits, licences, without)
    wanted = {licence.casefold() for licence in licences} if licences is not None else None
    return {
        card.id: card
        for card in cards.values()
        if (splits is None or card.split in splits)
        and (wanted is None or card.licence.casefold() in wanted)
        and card.id not in without
    }


def met(cards: Mapping[str, Card], fact: Literal["split", "licence"]) -> list[str]:
    """The different splits or licences of some cards, for a message."""
    if isinstance(cards, CardTable):
        return cards.met(fact)
    return sorted({getattr(card, fact) for card in cards.values()})


def _refuse_links_out(root: Path, folders: Sequence[Path]) -> None:
    """Refuse folders of experts that are links to places outside of their zoo: what is written there would leave it."""
    for folder in (root / EXPERTS, *folders):
        if folder.is_symlink() and not folder.resolve().is_relative_to(root.resolve()):
            raise ZooError(f"{folder} is a link out of the zoo; put the folder itself there, or remove the link.")
