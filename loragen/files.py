"""Files and folders that are either whole or not there, and never in place of what is not ours."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loragen.errors import ConfigError, cut
from loragen.locks import lock
from loragen.renames import exchange, rename_to_new

LONGEST_PATH, LONGEST_FOLDER_NAME = 3_000, 200
"""Bytes of a path and of a folder's name, so that files within it and its half-made siblings have room for theirs."""
MANIFEST = ".loragen.json"
"""Names, in every folder that is written, the files that are ours; a folder is replaced only if it holds no others."""
LARGEST_MANIFEST = 100_000_000
"""Bytes of a manifest."""
BEFORE_MANIFESTS = frozenset(
    {
        *("adapter_config.json", "adapter_model.safetensors", "README.md", "card.yaml"),
        *("generator.yaml", "generator.safetensors", "frame.safetensors", "losses.json", "losses.png", "run.yaml"),
        *("fold.yaml", "variance.safetensors", "snapshots.safetensors"),
    }
)
"""Files of folders that were written before there were manifests."""


@contextmanager
def atomic_folder(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block succeeds.

    A folder that stood at ``path`` before stays untouched until then. One process at a time writes to ``path``, and
    what a process that was killed left beside it is cleared away.

    Args:
        path: the folder.
        replace: take the place of a folder of ours that stands there.

    Raises:
        ConfigError: something stands there that is not ours, or anything without ``replace``; or another process is
            writing there.
    """
    _refuse_place(path)
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with lock(path):
        _recover(path)
        _refuse(path, replace=replace)
        staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            yield staging
            _write_manifest(staging)
            staging.chmod(0o755)
            _sync_tree(staging)
            _refuse(path, replace=replace)  # it may have come meanwhile
            _swap(staging, path, replace=replace)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _swap(staging: Path, path: Path, *, replace: bool) -> None:
    if not path.exists():
        rename_to_new(staging, path)
    elif not (replace and exchange(staging, path)):
        retired = _retired(path)
        path.rename(retired)
        try:
            staging.rename(path)
        except BaseException:
            retired.rename(path)
            raise
        shutil.rmtree(retired, ignore_errors=True)
    sync(path.parent)


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.retired")


def _recover(path: Path) -> None:
    """Put back a folder that was moved aside by a process that was killed, and clear its half-made ones away."""
    retired = _retired(path)
    if retired.is_dir() and not path.exists():
        retired.rename(path)
    shutil.rmtree(retired, ignore_errors=True)
    half_made = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]{{8}}\.partial")
    for other in path.parent.iterdir():
        if half_made.fullmatch(other.name) and other.is_dir():
            shutil.rmtree(other, ignore_errors=True)


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


def _refuse_place(path: Path) -> None:
    """Refuse a place at which no folder of its own can be written, whatever stands there."""
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


def _refuse(path: Path, *, replace: bool) -> None:
    _refuse_place(path)
    if not path.exists():
        return
    if not replace:
        refuse_to_replace([path], force=False)
    if not path.is_dir():
        raise ConfigError(f"{path} is a file, where a folder is to be written; give another --out.")
    if strangers := not_ours(path):
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise ConfigError(
            f"{path} holds {', '.join(strangers[:3])}{more}, which loragen did not write and will not remove; give "
            "another --out, or move them away."
        )


def not_ours(folder: Path) -> list[str]:
    """Relative names of files in a folder that no manifest of ours names."""
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
    try:
        ours = set(BEFORE_MANIFESTS)
        if (folder / MANIFEST).exists():
            ours = set(json.loads(read_capped(folder / MANIFEST, LARGEST_MANIFEST, kind="manifest"))["files"]) | {
                MANIFEST
            }
    except (OSError, ConfigError, ValueError, KeyError, TypeError, RecursionError):
        return found
    return [name for name in found if name not in ours]


def _write_manifest(folder: Path) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    (folder / MANIFEST).write_text(json.dumps({"files": names}, indent=1) + "\n", encoding="utf-8")


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file through a temporary sibling and a rename, so that a reader sees the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync(path.parent)


def _sync_tree(folder: Path) -> None:
    """Bring files and folders to the disk, so that a rename cannot come before what it names."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    with contextlib.suppress(OSError):  # some file systems cannot, and a folder cannot be opened everywhere
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
            with os.fdopen(handle, "rb", closefd=False) as file:
                data = file.read(most + 1)
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
        raise ConfigError(f"{place} has {max(facts.st_size, len(data)):,} bytes; no {kind} has over {most:,}.")
    return data[:most]


def _places(source: Path | str) -> tuple[Path, ...]:
    """A path and the folders it lies in, links resolved; none for a name that no file can have."""
    try:
        whole = Path(os.path.realpath(source))
    except (OSError, ValueError):
        return ()
    return (whole, *whole.parents)


def _kind_of(mode: int) -> str:
    return "directory" if stat.S_ISDIR(mode) else "pipe or socket" if not stat.S_ISCHR(mode) else "device"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        ConfigError: it is a pipe or a device, which may never end.
    """
    if path.exists() and not path.is_file():
        raise ConfigError(f"{cut(path)} is no file; restore it.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_to_replace(folders: Sequence[Path], *, force: bool, read: Sequence[Path | str | None] = ()) -> None:
    """Keep what is there from being written over.

    Args:
        folders: to be written.
        force: replace what is ours.
        read: folders and files that the work itself reads; names that are no paths, and `None`, do not count.

    Raises:
        ConfigError: one of the folders exists, and ``force`` is not set; it holds what is not ours, or what is read; or
            no folder can be written there.
    """
    for folder in folders:
        _refuse_place(folder)
        whole = Path(os.path.realpath(folder))
        for source in read:
            if source is not None and whole in _places(source):
                raise ConfigError(f"{cut(folder)} is or holds {cut(source)}, which is read; give another --out.")
        if folder.exists() and not force:
            raise ConfigError(f"{folder} exists already; give another --out, or --force to replace it.")
        _refuse(folder, replace=True)


def folder_name(text: str, *, words: int = 8) -> str:
    """A name for a folder from the first words of a text."""
    found: Sequence[str] = re.findall(r"[a-z0-9]+", text[:2_000].casefold())
    return "-".join(found[:words])[:80] or "task"
