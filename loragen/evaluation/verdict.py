"""A verdict in words on one adapter, from its differences to the base and to classifiers fitted to the labels.

A difference is called real only where two things agree: its interval leaves zero out, and the exact sign test over the
texts has p ≤ .05. With few texts a bootstrap alone is too sure: four texts that change can be enough for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from loragen.evaluation.statistics import Interval, Table, difference_interval, sign_test

LEAST = 6
"""Texts that must change for the better, and none for the worse, before the sign test has p ≤ .05."""
SHOWN_RESOLUTION = 0.1
"""Differences that cannot be seen are mentioned from this size on, also where there is a clear result."""


@dataclass(frozen=True)
class Comparison:
    """An adapter against another method on the same texts."""

    difference: Interval
    """Accuracy of the adapter minus the other's."""
    texts: int
    right: int
    """Texts that the adapter gets right."""
    is_real: bool
    """True if the texts are enough to say which of the two is better."""
    is_same: bool
    """True if both get the same texts right."""

    @classmethod
    def of(cls, own: Table, other: Table) -> "Comparison":
        """Compare two columns, (texts, 1), of 1 for right and 0 for wrong."""
        found = difference_interval(own, other, rng=np.random.default_rng(0))
        is_real = (found.low > 0 or found.high < 0) and sign_test(own, other) <= 0.05
        return cls(found, len(own), int(own.sum()), is_real, bool((own == other).all()))

    @property
    def is_ahead(self) -> bool:
        """True if the adapter is better."""
        return self.is_real and self.difference.mean > 0

    @property
    def is_behind(self) -> bool:
        """True if the adapter is worse."""
        return self.is_real and self.difference.mean < 0

    @property
    def resolution(self) -> float:
        """Differences below this cannot be seen, about: half the interval's width, and no less than six texts."""
        return max((self.difference.high - self.difference.low) / 2, LEAST / self.texts)


def verdict_of(base: Comparison, labelled: Mapping[str, Comparison]) -> str:
    """One or two sentences on an adapter.

    Args:
        base: the adapter against the base.
        labelled: the adapter against classifiers fitted to the labels, by name.
    """
    return " ".join(filter(None, (_against_base(base), _way_on(base, labelled))))


def resolution_note(base: Comparison) -> str | None:
    """A note on differences that so few texts cannot show; `None` where the verdict says it, or they are small."""
    is_said = not base.is_real and not base.is_same
    return None if is_said or base.resolution < SHOWN_RESOLUTION else _few(base)


def _against_base(base: Comparison) -> str:
    shown = f"{base.difference:+.3f}"
    if base.is_ahead:
        return f"This adapter is better than the base on these {base.texts} texts: {shown}."
    if base.is_behind:
        return f"This adapter is worse than the base on these {base.texts} texts: {shown}."
    if base.is_same:
        return f"This adapter and the base get the same {base.right} of {base.texts} texts right."
    words = f"No difference between this adapter and the base can be told from {base.texts} texts: {shown}."
    return f"{words} {_few(base)}"


def _way_on(base: Comparison, labelled: Mapping[str, Comparison]) -> str | None:
    better = {name: one for name, one in labelled.items() if one.is_behind}
    if better:
        name = min(better, key=lambda name: better[name].difference.mean)
        behind = better[name].difference
        ahead = Interval(-behind.mean, -behind.high, -behind.low)
        return (
            f"With these labels, fitting does better: {name} over the bare base is ahead of this adapter by "
            f"{ahead:+.3f}. "
            'To fit an adapter: loragen generate "…" --examples FILE --fit.'
        )
    return "Use the base as it is." if base.is_behind else None


def _few(base: Comparison) -> str:
    if base.texts < LEAST:
        return f"{base.texts} texts are too few for any difference to be seen."
    words = f"{base.texts} texts are few" if base.resolution >= SHOWN_RESOLUTION else f"With {base.texts} texts"
    separator = ":" if base.resolution >= SHOWN_RESOLUTION else ","
    return f"{words}{separator} differences below about {base.resolution:.2f} cannot be seen."
