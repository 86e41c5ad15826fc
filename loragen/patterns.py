"""Regular expressions that come from outside, matched within a bound of length and time.

They are those of the package `regex`, which takes what Python's own `re` takes.
"""

from functools import lru_cache
from typing import Any

import regex

from loragen.errors import ConfigError, shown

LONGEST = 10_000
"""Characters of an expression."""
SECONDS = 0.5
"""Longest time of one match."""


# The cache of `regex` holds 500 expressions: fewer than a large model has sites with ranks of their own.
@lru_cache(maxsize=8192)
def _compiled(expression: str) -> Any:
    return regex.compile(expression)


def compiles(expression: str) -> bool:
    """True if this is a regular expression, and none of a length or depth that no name of a module needs."""
    try:
        return len(expression) <= LONGEST and bool(_compiled(expression))
    except (regex.error, OverflowError, RecursionError, MemoryError, ValueError):
        return False


def matches(expression: str, text: str, *, whole: bool = True) -> bool:
    """True if an expression matches a text, the whole of it or its beginning.

    Raises:
        ConfigError: it takes too long.
    """
    pattern = _compiled(expression)
    try:
        found = (pattern.fullmatch if whole else pattern.match)(text, timeout=SECONDS)
    except TimeoutError as error:
        raise ConfigError(
            f"The pattern {shown(expression)} takes over {SECONDS} s to match {shown(text)}; write it without nested "
            "repetitions, or list the names of the modules."
        ) from error
    return found is not None
