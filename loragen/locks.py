"""One writer at a time: a lock file beside a path, which the system frees when its owner ends, however it ends."""

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loragen.errors import ConfigError

try:
    import fcntl
except ImportError:  # not on Windows; there writers are not kept apart
    fcntl = None  # type: ignore[assignment]


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold ``path`` for this process while the block runs.

    Raises:
        ConfigError: another process holds it; the message names it.
    """
    if fcntl is None:
        yield
        return
    file = path.with_name(f".{path.name}.lock")
    handle = _acquired(file, path)
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: who opened it before sees that it is gone, and opens it anew
        os.close(handle)


def _acquired(file: Path, path: Path) -> int:
    """A handle of the lock file, locked."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), os.stat(file)):
                return handle
        except BlockingIOError:
            owner = os.read(handle, 20).decode(errors="replace") or "unknown"
            os.close(handle)
            raise ConfigError(
                f"{path} is being written by another process (number {owner}); wait for it, or give another --out."
            ) from None
        except FileNotFoundError:  # its owner has just removed it
            pass
        os.close(handle)
