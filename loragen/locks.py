"""One writer at a time: a lock file beside a path, which the system frees when its owner ends, however it ends."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loragen.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows; there writers are not kept apart
    fcntl = None  # type: ignore[assignment]


_UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)
"""Errors of file systems without locks, as some of clusters are; there writers are not kept apart."""


@contextmanager
def lock(path: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold ``path`` for this process while the block runs; its parents are made.

    Args:
        path: a file or folder, there or to be.
        wait_s: seconds to wait for another process that holds it.

    Raises:
        ConfigError: another process holds it; the message names it.
    """
    if fcntl is None:
        yield
        return
    file = Path(os.path.abspath(path))
    file = file.with_name(f".{file.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = _acquired(file, path, wait_s)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: who opened it before sees that it is gone, and opens it anew
        os.close(handle)


def _acquired(file: Path, path: Path, wait_s: float) -> int:
    """A handle of the lock file, locked; a process that only looks whether it is free holds it for a moment."""
    tries, end = 5, time.monotonic() + wait_s
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        except BlockingIOError:
            tries -= 1
            owner = _owner(handle)
            if tries <= 0 and time.monotonic() >= end:
                os.close(handle)
                raise ConfigError(
                    f"{path} is being written by another process (number {owner}); wait for it, or give another --out."
                ) from None
            time.sleep(0.02)
        except FileNotFoundError:  # its owner has just removed it
            pass
        os.close(handle)


def _take(handle: int, kind: int) -> bool:
    """Lock a file; `False` where the file system has no locks."""
    try:
        fcntl.flock(handle, kind)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def _owner(handle: int) -> str:
    """The number that the owner of a lock file writes as soon as it holds it."""
    for _ in range(20):
        if number := os.pread(handle, 20, 0).decode(errors="replace"):
            return number
        time.sleep(0.01)
    return "unknown"


@contextmanager
def marked(file: Path) -> Iterator[bool]:
    """Mark a file as one that this process writes, until the block or the process ends: it is not `abandoned`.

    Yields `False` where another process took it for abandoned just before.
    """
    if fcntl is None:
        yield True
        return
    handle = os.open(file, os.O_RDONLY)
    try:
        _take(handle, fcntl.LOCK_SH)
        yield file.exists()
    finally:
        os.close(handle)


@contextmanager
def abandoned(file: Path) -> Iterator[bool]:
    """Tell if the process that wrote a file is gone; nobody marks the file while the block runs."""
    if fcntl is None:
        yield False
        return
    handle = os.open(file, os.O_RDONLY)
    try:
        try:
            is_free = _take(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_free = False
        yield is_free
    finally:
        os.close(handle)
