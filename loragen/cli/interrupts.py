"""Ctrl-C: one line and status 130 wherever it strikes, also while modules are imported."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MESSAGE = "error: interrupted; what was finished is kept, and the same command goes on from there.\n"


class CtrlC:
    """The handler of Ctrl-C: it interrupts once; a second time it does not wait for things to be put in order."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, _number: int, _frame: object) -> None:
        """Interrupt what runs."""
        if self.came:
            os.write(2, _MESSAGE.encode())  # without the lock of a stream, which the interrupted code may hold
            os._exit(130)
        self.came = True
        raise KeyboardInterrupt


@contextmanager
def one_line_at_ctrl_c() -> Iterator[CtrlC]:
    """End the process with one line and status 130 if Ctrl-C comes while the block runs and it does not succeed.

    Modules that are being imported, typer and Lightning turn it into errors of their own, or swallow it. Of blocks
    within one another the outermost speaks.
    """
    before = signal.getsignal(signal.SIGINT)
    if isinstance(before, CtrlC):
        yield before
        return
    handler = CtrlC()
    if before is not signal.SIG_IGN:  # as of a command that runs in the background
        signal.signal(signal.SIGINT, handler)
    try:
        yield handler
    except BaseException as end:
        if isinstance(end, SystemExit) and not end.code:
            raise
        if not (handler.came or _is_interrupt(end)):
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
