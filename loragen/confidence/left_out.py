"""Similarities of descriptions to the experts of other families: what a task of a family that a zoo lacks is like.

In numpy alone, since generating without torch reads them too.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loragen.confidence.coverage import Reference

FEWEST = 5
"""Families without which nothing can be left out."""
MOST = 250
"""Experts whose descriptions are compared, evenly spaced where there are more."""
DIGITS = 6
"""Similarities are rounded to so many, as those of a search are."""


def left_out_similarities(
    descriptions: Sequence[NDArray[Any]], experts: NDArray[Any], families: Sequence[str]
) -> Reference | None:
    """For each description of an expert its similarity to the nearest expert of another family.

    Args:
        descriptions: for each expert the unit vectors of its descriptions, (p, d).
        experts: a unit vector for each expert, (n, d).
        families: for each expert its family.

    Returns:
        The similarities; `None` with fewer than `FEWEST` families.
    """
    if len(set(families)) < FEWEST:
        return None
    numbers = {family: number for number, family in enumerate(dict.fromkeys(families))}
    of_family = np.array([numbers[family] for family in families])
    single = experts.astype(np.float32).T
    found: list[float] = []
    for at in np.linspace(0, len(families) - 1, min(MOST, len(families))).astype(int).tolist():
        similarities = np.asarray(descriptions[at], dtype=np.float32) @ single
        similarities[:, of_family == of_family[at]] = -1
        found += [round(float(value), DIGITS) for value in similarities.max(1)]
    return Reference.of(found)
