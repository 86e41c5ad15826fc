"""The log of a zoo: a line for each expert that came or went, in a file of its own.

A line is written before the change that it tells of. A process that is killed between the two leaves a line too many,
which the next one that changes the zoo takes back: the zoo is then still in the state before that line. A line that was
cut off in the midst is taken back as well.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from loragen.config import StrictModel
from loragen.errors import ZooError, cut
from loragen.values import LONGEST_NAME
from loragen.zoo.cards import read_cards

CHANGES = "changes.jsonl"
"""File of a zoo for its log, a `Change` a line."""
PATIENCE_S = 10.0
"""Seconds that a change waits for another process that changes the same zoo."""
LARGEST_LOG = 2**26
"""Bytes of a log that are read, the newest: some 150,000 changes."""
LONGEST_LINE = 4_000
"""Bytes of a line."""
What = Literal["added", "removed", "found"]
"""What happened; ``found`` stands for changes that were made without a line of their own."""
Hash = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]


class Change(StrictModel):
    """One change of a zoo."""

    time: str = Field(max_length=40)
    """In UTC, ISO 8601."""
    what: What
    id: str = Field("", max_length=LONGEST_NAME)
    """The expert; empty for what was found."""
    sha256: Hash = ""
    """Of the expert's weights file."""
    before: Hash
    """`Zoo.fingerprint` of the whole zoo before the change."""
    after: Hash
    """The same after it."""
    loragen: str = Field(max_length=100)
    """Version that made the change."""


def fingerprint_of(hashes: Mapping[str, str]) -> str:
    """SHA-256 over ids in alphabetical order and the hashes of their adapters' files."""
    return hashlib.sha256("".join([f"{name} {hashes[name]}\n" for name in sorted(hashes)]).encode()).hexdigest()


def read_changes(root: Path) -> tuple[Change, ...]:
    """The changes of a zoo, the newest last; of a log of over `LARGEST_LOG` bytes its end.

    Raises:
        ZooError: the log is no file, or a line of it is damaged.
    """
    return tuple(_parsed(root, line) for line in _whole_lines(root, LARGEST_LOG))


def stamp_of(root: Path) -> tuple[int, int] | None:
    """Time and bytes of a log, which differ after each change; `None` where there is none."""
    try:
        facts = os.stat(root / CHANGES)
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def settle(root: Path, fingerprint: str) -> None:
    """Take back what a process that was killed left: a line that was cut off, or one whose change did not come.

    Args:
        root: of a zoo that this process holds the lock of.
        fingerprint: of the whole zoo as it is.

    Raises:
        ZooError: the last line is damaged.
    """
    path, last = root / CHANGES, last_change(root)
    if not _is_file(path):
        return
    content = _tail(path, 2 * LONGEST_LINE)
    keep = content.rfind(b"\n") + 1
    if last is not None and last.before == fingerprint != last.after:
        keep = content.rfind(b"\n", 0, keep - 1) + 1
    if keep < len(content):
        os.truncate(path, path.stat().st_size - len(content) + keep)


def last_change(root: Path) -> Change | None:
    """The newest change; `None` where there is none.

    Raises:
        ZooError: the log is no file, or its last line is damaged.
    """
    lines = _whole_lines(root, 2 * LONGEST_LINE)
    return _parsed(root, lines[-1]) if lines else None


@contextmanager
def logged(root: Path, what: What, expert: str, sha256: str, *, before: str, after: str) -> Iterator[None]:
    """Write the line of a change, and make the change in the block.

    Where the block fails the line is taken back, unless the change has come nevertheless.

    Args:
        root: of a zoo that this process holds the lock of; its log is settled.
        what: ``added`` or ``removed``.
        expert: its id.
        sha256: of its weights file.
        before: fingerprint of the whole zoo before the change.
        after: the same after it.

    Raises:
        ZooError: the log is no file.
        OSError: the disk is full or fails; nothing is changed.
    """
    size = note(root, what, before, after, expert=expert, sha256=sha256)
    try:
        yield
        with contextlib.suppress(OSError):
            os.utime(root / CHANGES)  # who watches the log sees the change once it is there
    except Exception:
        with contextlib.suppress(Exception):
            if (expert in read_cards(root)) == (what == "removed"):
                os.truncate(root / CHANGES, size)
        raise


def note(root: Path, what: What, before: str, after: str, *, expert: str = "", sha256: str = "") -> int:
    """Write a line at the end of the log, whole or not at all; returns the bytes of the log before.

    Raises:
        ZooError: the log is no file.
        OSError: the disk is full or fails.
    """
    time = datetime.now(UTC).isoformat(timespec="seconds")
    change = Change(
        time=time, what=what, id=expert, sha256=sha256, before=before, after=after, loragen=version("loragen")
    )
    line = change.model_dump_json().encode() + b"\n"
    _is_file(root / CHANGES)
    handle = os.open(root / CHANGES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0), 0o644)
    try:
        size = os.fstat(handle).st_size
        try:
            if os.write(handle, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root / CHANGES))
            os.fsync(handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, size)
            raise
    finally:
        os.close(handle)
    return size


def _whole_lines(root: Path, most: int) -> list[bytes]:
    """The last whole lines of a log within so many bytes."""
    path = root / CHANGES
    if not _is_file(path):
        return []
    content = _tail(path, most)
    lines = content.split(b"\n")[:-1]  # what follows the last line break is no whole line
    return lines[1:] if len(content) == most else lines


def _tail(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - most))
        return file.read(most)


def _is_file(path: Path) -> bool:
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ZooError(f"The log {cut(path)} is no file of its own; move away what stands there.")
    return path.exists()


def _parsed(root: Path, line: bytes) -> Change:
    try:
        if len(line) > LONGEST_LINE:
            raise ValueError(f"{len(line):,} bytes")
        return Change.model_validate_json(line)
    except (ValidationError, ValueError) as error:
        raise ZooError(
            f"A line of the log {cut(root / CHANGES)} is damaged; restore it, or remove the file."
        ) from error
