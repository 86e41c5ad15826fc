"""Types of values that settings and cards hold, each within bounds: names, seeds and counts.

A bound is far above what anyone trains with, and far below what fills a memory or a disk before the mistake is seen.
"""

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from loragen.errors import ConfigError, shown

LONGEST_NAME = 100
"""Characters of a name; file systems take 255 bytes, and files of a name have endings."""
MOST_STEPS = 10_000_000
"""Steps, epochs, and rounds of a training."""
MOST_EXAMPLES = 1_000_000
"""Examples of a batch, a slice or a support."""
MOST_TOKENS = 10_000_000
"""Tokens of a text."""
LARGEST_LAYER = 65_536
"""Features of a hidden layer, and the rank of an adapter."""
MOST_PARTS = 1_000
"""Folds, snapshots, variants, processes: things that each take a file, a training or a process."""
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices."""


def checked_name(name: str) -> str:
    """A name that is a file's on every system, and no option on a command line.

    Raises:
        ValueError: it is none.
    """
    if not re.fullmatch(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}", name):
        raise ValueError(
            f"a name has up to {LONGEST_NAME} letters, digits and '.', '_', '-', and begins with a letter or digit"
        )
    if _RESERVED.fullmatch(name) or name.endswith("."):
        raise ValueError("Windows can have no file of this name; choose another")
    return name


def checked_part(name: str) -> str:
    """A name that is one part of a path, as folders have that were named elsewhere: with brackets, blanks or umlauts.

    Raises:
        ValueError: it is none.
    """
    if not 1 <= len(name) <= LONGEST_NAME or name[0] in ".-" or not name.isprintable() or set(name) & set('/\\:*?"<>|'):
        raise ValueError(
            f"a name has up to {LONGEST_NAME} printable letters, no separator of folders among them and no dot or "
            "dash at its beginning"
        )
    return name


Name = Annotated[str, AfterValidator(checked_name)]
"""Name of an expert, a task, a zoo that is made here: it becomes the name of a folder."""
PartName = Annotated[str, AfterValidator(checked_part)]
"""The same, of what was made elsewhere."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""Seed of a training."""

LayerSize = Annotated[int, Field(ge=1, le=LARGEST_LAYER)]
"""Features of a layer."""
Shots = Annotated[int, Field(ge=1, le=MOST_EXAMPLES)]
"""Examples of a support."""


def checked_seed(seed: int) -> int:
    """A seed that torch takes.

    Raises:
        ConfigError: it has over 64 bits.
    """
    if not -(2**63) <= seed < 2**64:
        raise ConfigError(f"The seed is {shown(seed)}; a whole number of at most 64 bits was wanted.")
    return seed
