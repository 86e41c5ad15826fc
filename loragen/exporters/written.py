"""An adapter that was written and read back: what must hold of it, and what is told of it."""

from dataclasses import dataclass
from pathlib import Path

from loragen.errors import AdapterError
from loragen.exporters.card import Update

NOT_READ_BACK = "{} does not read back as it was written; check the disk, and generate again."


@dataclass(frozen=True)
class Written:
    """An adapter on disk that was read back and found to change its base."""

    folder: Path
    norm: float
    """Frobenius norm over all delta weights."""
    sites: int
    r: int
    """Largest rank of a site."""
    task_type: str | None
    """PEFT's name for what it is for."""


def refuse_no_op(adapter: Update) -> None:
    """Refuse to write an adapter that does nothing.

    Raises:
        AdapterError: its delta weights are all zero.
    """
    if adapter.norm() == 0:
        raise AdapterError(
            "The generated adapter leaves the base unchanged (all delta weights are zero); nothing was written."
        )


def written(folder: Path, read: Update, meant: Update) -> Written:
    """What is told of an adapter that was read back from a folder, where it is what was ``meant``.

    Raises:
        AdapterError: it is another.
    """
    if read.spec != meant.spec or abs(read.norm() - meant.norm()) > 1e-3 * meant.norm():
        raise AdapterError(NOT_READ_BACK.format(folder))
    r = max(site.r for site in read.spec.sites)
    return Written(folder, read.norm(), len(read.sites), r, meant.settings.task_type)
