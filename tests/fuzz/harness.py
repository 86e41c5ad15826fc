"""Bounds on what a mutant may take, and counts of what became of it."""

import os
import resource
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import currently_in_test_context, event

from loragen.errors import LoragenError

SECONDS = 2.0
"""Computing time of a mutant; in waiting it may take ten times as long."""
IMPORTS = 30.0
"""Seconds more for the first of a kind, which imports what it needs."""
MEMORY = 4 * 2**30
"""Bytes that a mutant may add to those of the process."""
LONGEST = 4_000
"""Characters of a message; those of a config name a dozen faults, a line each."""
LONG = 10_000
"""Mutants of a long run, all kinds together."""
SHARES = {"light": 16, "middle": 6, "heavy": 6}
"""Mutants for one test, in hundredths of all of a long run, by what one costs."""
SHORT = 5
"""Mutants in a short run for each share."""

COUNTS: dict[str, Counter[str]] = {}
"""Kind of mutant → how many were tried, accepted, refused, crashed, and took too long."""


class TooLong(BaseException):
    """A mutant is over its time. No `Exception`, which the code under test may catch."""


def examples(weight: str) -> int:
    """Number of mutants for one test: a few, or what the variable LORAGEN_FUZZ says ("long", "all", or a number)."""
    wanted = os.environ.get("LORAGEN_FUZZ", "")
    if wanted.isdecimal():
        return int(wanted)
    return SHARES[weight] * (LONG // 100 if wanted else SHORT)


def outcome(kind: str, call: Callable[[], Any], *, seconds: float = SECONDS) -> Any:
    """What a call returns, or its LoragenError; counted.

    Raises:
        AssertionError: it raises anything else, takes too long, or its message is no message.
    """
    counts = COUNTS.setdefault(kind, Counter())
    counts["tried"] += 1
    if counts["tried"] == 1:
        seconds += IMPORTS
    try:
        with bounded(seconds):
            result = call()
    except LoragenError as error:
        counts["refused"] += 1
        _note(f"{kind}: refused")
        _check_message(error)
        return error
    except TooLong as error:
        counts["hung"] += 1
        raise AssertionError(f"{kind}: over {seconds} s") from error
    except BaseException:
        counts["crashed"] += 1
        raise
    counts["accepted"] += 1
    _note(f"{kind}: accepted")
    return result


def _note(what: str) -> None:
    if currently_in_test_context():
        event(what)


def _check_message(error: LoragenError) -> None:
    message = str(error)
    assert message.strip(), "an error without a message"
    assert len(message) <= LONGEST, f"a message of {len(message)} characters: {message[:300]}"


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """End the block after some time of computing, and let it fail where it wants very much memory."""

    def late(_number: int, _frame: object) -> None:
        raise TooLong

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, 10 * seconds)}
    before = {number: signal.signal(number, late) for number in timers}
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_used() + MEMORY, limits[1]))
    for timer, length in timers.values():
        signal.setitimer(timer, length)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        for number, handler in before.items():
            signal.signal(number, handler)


def _used() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
