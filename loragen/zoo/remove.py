"""Takes experts out of a zoo for good, one after another, each whole or not at all, with a line in the zoo's log."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loragen.errors import ConfigError, ZooError, cut
from loragen.files import not_ours, remove_folder
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.zoo.card_table import TABLE, take_out, writing
from loragen.zoo.changes import PATIENCE_S, fingerprint_of, logged
from loragen.zoo.tidy import tidy, wipe
from loragen.zoo.zoo import SPLIT, Zoo


@dataclass(frozen=True)
class Removed:
    """What came of a removal."""

    ids: tuple[str, ...]
    """The experts that were taken out."""
    left: int
    """Experts that the zoo still holds."""
    fingerprint: str
    """Of the zoo as it is now."""


def remove_expert(experts: str | Sequence[str], zoo: Zoo | Path | str, *, progress: Progress = silent) -> Removed:
    """Take experts out of a zoo, in folders or packed; their weights are then gone from the disk.

    The folder of an expert is removed. In a packed zoo its row is deleted from the table, which overwrites the card's
    bytes, and its weights are overwritten with zeros; shards grow no smaller before the zoo is packed anew. The
    embeddings of its descriptions stay, and nothing reads them. What was trained on the expert before (generators,
    folds, the one adapter for all tasks) still holds what it learnt from it; such generators are then behind.

    A process that is killed leaves each expert there or not, and the log as it was or with the line of the change.

    Args:
        experts: one id or several.
        zoo: the zoo, its folder, or the name of one.
        progress: called with the stage, the experts done and their total.

    Raises:
        ZooError: there is no such zoo or expert, or none would be left that generators draw on.
        ConfigError: another process writes there, or the folder of an expert holds files of others.
    """
    ids = (experts,) if isinstance(experts, str) else tuple(dict.fromkeys(experts))
    if not ids:
        raise ZooError("No expert was named to be removed; `loragen zoo list` shows all.")
    root = zoo.root if isinstance(zoo, Zoo) else Zoo.open(Path(zoo)).root
    with lock(root, wait_s=PATIENCE_S):
        here = Zoo.open(root)
        tidy(here)
        _refuse(here, ids)
        hashes, fingerprint = dict(here.hashes), here.fingerprint
        for done, expert in enumerate(ids):
            progress("removing experts", done, len(ids))
            sha256 = hashes.pop(expert)
            after = fingerprint_of(hashes)
            with logged(root, "removed", expert, sha256, before=fingerprint, after=after):
                _remove(here, expert)
            fingerprint = after
        wipe(here)
        progress("removing experts", len(ids), len(ids))
    return Removed(ids, len(hashes), fingerprint)


def _refuse(zoo: Zoo, ids: Sequence[str]) -> None:
    """Refuse before anything is changed.

    Raises:
        ZooError: an expert is not there, or none would be left.
        ConfigError: a folder holds files of others, or is a link.
    """
    for expert in ids:
        zoo.card(expert)
        if zoo.sharded is None:
            _refuse_others(zoo.folder(expert))
    drawn_on = {card.id for card in map(zoo.card, ids) if card.split == SPLIT}
    if len(ids) == len(zoo) or (drawn_on and len(drawn_on) == len(zoo.drawn_on)):
        raise ZooError(
            f"No expert that generators draw on would be left in {cut(zoo.root)}; add others first, or delete the "
            "folder of the zoo yourself."
        )


def _refuse_others(folder: Path) -> None:
    if folder.is_symlink():
        raise ConfigError(f"{cut(folder)} is a link; remove it yourself, and what it stands for.")
    if strangers := not_ours(folder):
        raise ConfigError(
            f"{cut(folder)} holds {cut(', '.join(strangers[:3]))}, which loragen did not write and will not remove; "
            "move it away."
        )


def _remove(zoo: Zoo, expert: str) -> None:
    if zoo.sharded is None:
        remove_folder(zoo.folder(expert))
    else:
        with writing(zoo.root / TABLE) as opened:
            take_out(opened, expert)
