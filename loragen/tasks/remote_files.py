"""Files of tasks named by URI, such as s3://bucket/train.jsonl: fetched within bounds of size and time.

A copy is kept while this process lives, and used as long as the file is the same. The library `fsspec` reads them, with
`s3fs` for s3:// and `gcsfs` for gs://, which take credentials and options from the environment. Names without a scheme
are paths and have nothing to do with this; file:// is a path, too.
"""

import atexit
import contextlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from loragen.errors import LoragenError, MissingExtraError, TaskError, cut
from loragen.tasks.table_files import LARGEST

LONGEST_FETCH = 600.0
"""Seconds for a file to be fetched."""
MOST_KEPT = 2 * LARGEST
"""Bytes of copies that are kept; the oldest go first."""
NEEDS = {"s3": "s3fs", "gs": "gcsfs", "memory": ""}
"""The library that each scheme needs beside fsspec; memory:// is for tests."""
_AT_ONCE = 4 * 2**20
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_PLAIN = re.compile(r"(\.[A-Za-z0-9]{1,10}){1,2}")


def is_uri(name: str) -> bool:
    """True for a name with a scheme, file:// among them; a Windows drive is none."""
    return _SCHEME.match(name) is not None


def place_of(name: str) -> Path | str:
    """A file's name as a path, or as a URI if it lies elsewhere.

    Raises:
        TaskError: its scheme is not known.
    """
    scheme = _SCHEME.match(name)
    if scheme is None:
        return Path(name)
    kind = scheme[1].lower()
    if kind == "file":
        return Path(name[scheme.end() :])
    if kind not in NEEDS:
        raise TaskError(
            f"{cut(name)} is of the scheme {cut(kind, 40)}; files are read from paths, file://, s3:// and gs://. Copy "
            "it to one of these."
        )
    return name


def joined(folder: Path | str, name: str) -> Path | str:
    """The place of a file named within a folder; a URI and an absolute path stand for themselves."""
    if is_uri(name):
        return place_of(name)
    if isinstance(folder, Path) or Path(name).is_absolute():
        return folder / Path(name)
    return f"{folder.rstrip('/')}/{name}"


@contextmanager
def local_copy(uri: str) -> Iterator[Path]:
    """A copy of the file on this machine while the block runs; one that was fetched before is used if it is the same.

    Errors of the block name the URI in place of the copy.

    Raises:
        TaskError: the file is not there or cannot be read, is too large, or takes too long.
        MissingExtraError: the library for its scheme is not installed.
    """
    with _LOCK:
        path = _in_time(uri, LONGEST_FETCH)
        try:
            yield path
        except TaskError as error:
            raise TaskError(str(error).replace(str(path), uri)) from error.__cause__


def clear_copies() -> None:
    """Remove all copies of this process."""
    global _copies
    with _LOCK:
        if _copies is not None:
            shutil.rmtree(_copies.folder, ignore_errors=True)
            _copies = None


@dataclass(frozen=True)
class _Copies:
    """Copies that this process keeps, the oldest first."""

    folder: Path
    paths: dict[tuple[str, str], Path] = field(default_factory=dict)
    """URI and what tells one state of the file from another → its copy."""

    @classmethod
    def none(cls) -> "_Copies":
        """No copy, and a folder for some, which goes when this process ends in order."""
        folder = Path(tempfile.mkdtemp(prefix="loragen-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return cls(folder)

    def make_room(self, size: int) -> None:
        """Remove the oldest copies until as many bytes are free."""
        while self.paths and size + sum(path.stat().st_size for path in self.paths.values()) > MOST_KEPT:
            self.paths.pop(next(iter(self.paths))).unlink()


_copies: _Copies | None = None
_LOCK = threading.RLock()


def _in_time(uri: str, seconds: float) -> Path:
    """Fetch in a thread that can be left behind: a read of a network cannot be broken off."""
    ended: list[Path | BaseException] = []
    deadline = time.monotonic() + seconds

    def fetch() -> None:
        try:
            ended.append(_fetched(uri, deadline))
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    thread.join(seconds)
    if not ended:
        raise TaskError(f"{cut(uri)} could not be fetched within {seconds:g} seconds; copy it to this machine.")
    if isinstance(ended[0], BaseException):
        raise ended[0]
    return ended[0]


def _fetched(uri: str, deadline: float) -> Path:
    global _copies
    try:
        files = _file_system(uri)
        files.invalidate_cache()
        facts = files.info(uri)
        size, state = facts.get("size"), files.ukey(uri)
        if facts.get("type") == "directory":
            raise TaskError(f"{cut(uri)} is a folder; name a file in it.")
        if size is not None and size > LARGEST:
            raise TaskError(f"{cut(uri)} has {size:,} bytes, and {LARGEST:,} are the most; give a part of it.")
        _copies = _copies or _Copies.none()
        kept = _copies.paths.get((uri, state))
        if kept is None:
            _copies.make_room(size or LARGEST)
            kept = _copied(files, uri, _copies.folder, deadline)
            _copies.paths[uri, state] = kept
    except LoragenError:
        raise
    except FileNotFoundError as error:
        raise TaskError(f"There is no file {cut(uri)}; check the name, and the root that it is relative to.") from error
    except Exception as error:  # of whatever library reads that scheme
        raise TaskError(
            f"Cannot read {cut(uri)}: {cut(error) or type(error).__name__}. Check the name, and the credentials in the "
            "environment."
        ) from error
    return kept


def _file_system(uri: str) -> Any:
    kind = uri.partition("://")[0].lower()
    try:
        import fsspec

        return fsspec.filesystem(kind)
    except ImportError as error:
        needed = NEEDS[kind] or "fsspec"
        raise MissingExtraError(f"{cut(uri)} needs {needed!r}, which is not installed: pip install {needed}") from error


def _copied(files: Any, uri: str, folder: Path, deadline: float) -> Path:
    """Copy a file, no more of it than may be read."""
    ending = "".join(PurePosixPath(uri).suffixes[-2:])
    handle, name = tempfile.mkstemp(suffix=ending if _PLAIN.fullmatch(ending) else "", dir=folder)
    left = LARGEST
    try:
        with open(handle, "wb") as copy, files.open(uri, "rb") as source:
            while block := source.read(_AT_ONCE):
                left -= len(block)
                if left < 0:
                    raise TaskError(f"{cut(uri)} has over {LARGEST:,} bytes, which are the most; give a part of it.")
                if time.monotonic() > deadline:
                    raise TaskError(f"{cut(uri)} took too long to be fetched; copy it to this machine.")
                copy.write(block)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    return Path(name)
