"""Renames that the system does in one step: two folders exchanged, and a folder moved only where nothing is."""

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
_UNSUPPORTED = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; `False` where the system cannot, and nothing was done."""
    return _renameat2(one, other, _EXCHANGE)


def rename_to_new(source: Path, target: Path) -> None:
    """Rename where nothing stands at the target; what came there in the meantime is left, where the system can tell.

    Raises:
        FileExistsError: something stands there.
    """
    if not _renameat2(source, target, _NOREPLACE):
        source.rename(target)


def _renameat2(source: Path, target: Path, flags: int) -> bool:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if function is None:
        return False
    if function(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), ctypes.c_uint(flags)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(target))
