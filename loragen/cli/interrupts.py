"""Ctrl-C: one line and status 130 wherever it strikes, also while modules are imported."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MESSAGE = "error: interrupted; what was finished is kept, and the same command goes on from there.\n"


@contextmanager
def one_line_at_ctrl_c() -> Iterator[None]:
    """End the process with one line and status 130 if Ctrl-C comes while the block runs, whatever becomes of it there.

    Modules that are being imported, typer and Lightning turn it into errors of their own. A second Ctrl-C does not wait
    for things to be put in order.
    """
    came = False

    def interrupt(_number: int, _frame: object) -> None:
        nonlocal came
        if came:
            os.write(2, _MESSAGE.encode())  # without the lock of a stream, which the interrupted code may hold
            os._exit(130)
        came = True
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as of a command that runs in the background
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as end:
        if not (came or _is_interrupt(end)):
            raise
        sys.stderr.write(_MESSAGE)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, before)


def _is_interrupt(end: BaseException | None) -> bool:
    """True if Ctrl-C is behind the end of a command."""
    while end is not None and not isinstance(end, KeyboardInterrupt):
        end = end.__cause__ or end.__context__
    return end is not None
