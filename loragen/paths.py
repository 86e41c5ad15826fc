"""Paths as they come from outside: names that no file system takes, and files that are none or have no end."""

import os
import stat
from pathlib import Path

from loragen.errors import ConfigError, cut

LONGEST_PATH, LONGEST_FOLDER_NAME = 3_000, 200
"""Bytes of a path and of a folder's name, so that files within it and its half-made siblings have room for theirs."""


def expanded(path: Path | str) -> Path:
    """A path with ``~`` and ``~user`` in full.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{cut(path)} begins with a user who is not known here; give it in full.") from error


def is_file(path: Path) -> bool:
    """True if a file is there; no name of whatever length or kind is an error."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_dir(path: Path) -> bool:
    """True if a folder is there; no name of whatever length or kind is an error."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def refuse_place(path: Path) -> None:
    """Refuse a place at which no folder of its own can be written, whatever stands there.

    Raises:
        ConfigError: it is none.
    """
    text, way_out = str(path), "give another --out."
    if "\0" in text or len(os.fsencode(text)) > LONGEST_PATH:
        raise ConfigError(f"{cut(path)!r} is no path of a folder; {way_out}")
    if text.startswith("~"):
        raise ConfigError(f"{cut(path)} begins with ~, which is no folder here; give the path in full.")
    whole, here = Path(os.path.abspath(path)), Path.cwd()
    if not whole.name or whole in (here, *here.parents):
        raise ConfigError(f"{cut(path)} is the current folder or holds it, and is not replaced; {way_out}")
    if len(os.fsencode(whole.name)) > LONGEST_FOLDER_NAME:
        raise ConfigError(f"{cut(path)} ends in a name of over {LONGEST_FOLDER_NAME} bytes; {way_out}")
    if path.is_symlink():
        raise ConfigError(f"{cut(path)} is a link; give the folder that it stands for, or another --out.")
    if stranger := next((parent for parent in whole.parents if parent.exists() and not parent.is_dir()), None):
        raise ConfigError(f"{cut(path)} would lie under {cut(stranger)}, which is a file; {way_out}")


def read_capped(path: Path, most: int, *, kind: str, whole: bool = True) -> bytes:
    """Read a file that comes from outside: a regular file of at most ``most`` bytes.

    Args:
        path: the file.
        most: bytes; no more are read, whatever the system says of the file's size.
        kind: what the file is, in a word for messages, such as "config".
        whole: refuse a larger file; otherwise its beginning is returned.

    Raises:
        ConfigError: there is no such file, it cannot be read, is a folder, pipe or device, or is larger.
    """
    place = cut(path)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigError(f"{place} is a {_kind_of(facts.st_mode)}; a {kind} file was wanted.")
            if whole and facts.st_size > most:
                raise ConfigError(f"{place} has {facts.st_size:,} bytes; no {kind} has over {most:,}.")
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(min(max(facts.st_size, 2**16), most) + 1)  # the system states 0 for its own
        finally:
            os.close(handle)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no {kind} file {place}.") from error
    except ConfigError:
        raise
    except (OSError, ValueError) as error:  # the latter of a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{place} cannot be read ({reason}); give the path of a {kind} file.") from error
    if len(data) > most and whole:
        raise ConfigError(f"{place} has more than {most:,} bytes, which no {kind} has.")
    return data[:most]


def places(source: Path | str) -> tuple[Path, ...]:
    """A path and the folders it lies in, links resolved; none for a name that no file can have."""
    try:
        whole = Path(os.path.realpath(source))
    except (OSError, ValueError):
        return ()
    return (whole, *whole.parents)


def _kind_of(mode: int) -> str:
    return "directory" if stat.S_ISDIR(mode) else "pipe or socket" if not stat.S_ISCHR(mode) else "device"


def split_revision(name: str) -> tuple[str, str | None]:
    """A model's name, and the revision of the Hub behind its ``@``; a folder may have ``@`` in its name."""
    plain, _, revision = name.rpartition("@")
    folder = as_path(name)
    if not plain or (folder is not None and is_dir(folder)):
        return name, None
    return plain, revision or None


def as_path(name: str) -> Path | None:
    """A name as a path that can be looked up; `None` for what no file system takes."""
    if not name.strip() or "\0" in name:
        return None
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, or of an unknown user's home
        return None
    return path
