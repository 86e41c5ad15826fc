"""What commands say of the trained generators of a zoo."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from loragen.generators.listing import GeneratorInfo


def told(generators: "Sequence[GeneratorInfo]") -> list[dict[str, Any]]:
    """How generators stand to their zoo, for scripts."""
    return [
        {
            "name": one.name,
            "unseen": [] if one.behind is None else list(one.behind.unseen),
            "gone": [] if one.behind is None else list(one.behind.gone),
            "fault": one.fault,
        }
        for one in generators
    ]


def warn_of(generators: "Sequence[GeneratorInfo]") -> None:
    """Say which generators are behind, or cannot be used."""
    from loragen.cli import console

    for one in generators:
        if (sentence := one.sentence()) is not None:
            console.warn(sentence)
