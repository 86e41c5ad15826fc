"""Regular expressions that come from outside, matched within a bound of length and time.

They are those of the package `regex`, which takes what Python's own `re` takes.
"""

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import regex

from loragen.errors import ConfigError, shown

LONGEST = 10_000
"""Characters of an expression."""
SECONDS = 0.5
"""Longest time of one match."""
SECONDS_OF_RE = 1.5
"""Longest time of all matches of an adapter's expressions by Python's own `re`."""
_MAY_BE_SLOW = re.compile(r"\)[*+{?]|([*+{].*){4}", re.DOTALL)
"""Repeated groups, and many repetitions in a row."""
_BY_RE = r"""
import json, re, sys
expressions, texts = json.load(sys.stdin)
for expression in expressions:
    for text in texts:
        re.fullmatch(expression, text)
        re.match(rf"(.*\.)?({expression})$", text)
"""


# The cache of `regex` holds 500 expressions: fewer than a large model has sites with ranks of their own.
@lru_cache(maxsize=8192)
def _compiled(expression: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what later versions may read otherwise
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
    return match_of(expression, text, whole=whole) is not None


def match_of(expression: str, text: str, *, whole: bool = False) -> Any:
    """The match of an expression with the beginning of a text, or with all of it; `None` where there is none.

    Raises:
        ConfigError: it takes too long.
    """
    pattern = _compiled(expression)
    try:
        return (pattern.fullmatch if whole else pattern.match)(text, timeout=SECONDS)
    except TimeoutError as error:
        raise ConfigError(
            f"The pattern {shown(expression)} takes over {SECONDS} s to match {shown(text)}; write it without nested "
            "repetitions, or list the names of the modules."
        ) from error


def finishes_in_re(expressions: Sequence[str], texts: Sequence[str]) -> bool:
    """True if Python's own `re`, by which PEFT matches, gets through in time; it cannot be bounded, or interrupted.

    It is tried in a process of its own, and only where an expression has the form of those that may take long.

    Args:
        expressions: each of which `compiles`.
        texts: names of modules that they are matched with.
    """
    doubtful = [expression for expression in expressions if _MAY_BE_SLOW.search(expression)]
    if not doubtful:
        return True
    call = [sys.executable, "-I", "-S", "-c", _BY_RE]
    try:
        subprocess.run(
            call, input=json.dumps([doubtful, list(texts)]).encode(), capture_output=True, timeout=SECONDS_OF_RE
        )
    except subprocess.TimeoutExpired:
        return False
    return True
