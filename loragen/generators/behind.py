"""What a trained generator has missed of its zoo: experts that came after it was trained, and experts that went."""

from collections.abc import Collection

from pydantic import Field

from loragen.config import StrictModel

SHOWN = 20
"""Ids that a card names."""
MOST_MISSED = 10_000_000
"""Experts of a zoo."""


class Behind(StrictModel):
    """What a generator has missed of its zoo."""

    unseen: tuple[str, ...] = ()
    """Ids of experts that it has not seen."""
    gone: tuple[str, ...] = ()
    """Ids of experts that it was trained on and that the zoo no longer has; it does not draw on them."""

    def sentence(self, name: str, config: str) -> str:
        """What is said of it before an adapter is made.

        Args:
            name: of the generator.
            config: path of the config that it was trained with.
        """
        parts = []
        if self.unseen:
            parts.append(f"has not seen {_listed(self.unseen)}")
        if self.gone:
            parts.append(f"was trained on {_listed(self.gone)} no longer in the zoo")
        return f"The generator {name} {' and '.join(parts)}; bring it up to date: loragen train {config} --update joint"

    def on_card(self) -> "Missed":
        """The same as cards have it."""
        return Missed(
            unseen=len(self.unseen), gone=len(self.gone), first_unseen=self.unseen[:SHOWN], first_gone=self.gone[:SHOWN]
        )


class Missed(StrictModel):
    """What the generator of an adapter had missed of its zoo."""

    unseen: int = Field(0, ge=0, le=MOST_MISSED)
    """Number of experts that it had not seen."""
    gone: int = Field(0, ge=0, le=MOST_MISSED)
    """Number of experts that it was trained on and that the zoo no longer had."""
    first_unseen: tuple[str, ...] = ()
    """Ids of the first of them."""
    first_gone: tuple[str, ...] = ()


def _listed(ids: Collection[str], most: int = 3) -> str:
    """The number of some experts, with the first by name."""
    names = ", ".join(list(ids)[:most]) + (", …" if len(ids) > most else "")
    return f"{len(ids):,} expert{'' if len(ids) == 1 else 's'} ({names})"
