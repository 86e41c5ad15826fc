"""Files and folders that are either whole or not there, and never in place of what is not ours."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from loragen.errors import ConfigError, cut
from loragen.locks import abandoned, lock, marked
from loragen.paths import places, read_capped, refuse_place
from loragen.renames import exchange, rename_to_new

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
        ConfigError: something stands there that is not ours, or anything but an empty folder without ``replace``; or
            another process is writing there.
    """
    refuse_place(path)
    path = Path(os.path.abspath(path))
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


def write_folder(path: Path, files: Mapping[str, str | bytes], *, replace: bool = True) -> None:
    """Write a folder of files by name, whole or not at all; see `atomic_folder`."""
    with atomic_folder(path, replace=replace) as staging:
        for name, content in files.items():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes(content.encode() if isinstance(content, str) else content)


def _swap(staging: Path, path: Path, *, replace: bool) -> None:
    if not replace and path.exists():
        path.rmdir()  # an empty folder, or else this fails
    if not path.exists():
        rename_to_new(staging, path)
    elif not exchange(staging, path):
        retired = _retired(path)
        path.rename(retired)
        try:
            staging.rename(path)
        except BaseException:
            retired.rename(path)
            raise
        _discard(retired, path)
    sync(path.parent)


def _retired(path: Path) -> Path:
    return path.with_name(f".{path.name}.retired")


def _recover(path: Path) -> None:
    """Put back a folder that was moved aside by a process that was killed, and clear its half-made ones away."""
    retired = _retired(path)
    if retired.is_dir() and not path.exists():
        retired.rename(path)
    elif retired.is_dir():
        _discard(retired, path)
    for other in _half_made(path):
        if other.is_dir():
            shutil.rmtree(other, ignore_errors=True)
        else:
            _clear_file(other)


def _discard(retired: Path, path: Path) -> None:
    """Remove a folder that was moved aside, under a name that is only ever cleared away: half of it must not return."""
    doomed = _doomed(path)
    shutil.rmtree(doomed, ignore_errors=True)
    retired.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder that may be removed, whole or not at all: a process that is killed leaves half of none.

    Raises:
        OSError: the folder is not there, or the disk fails.
    """
    doomed = _doomed(path)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    sync(path.parent)
    shutil.rmtree(doomed, ignore_errors=True)


def _doomed(path: Path) -> Path:
    """A name beside a path that is only ever cleared away."""
    return path.with_name(f".{path.name}.retiring.partial")


_LEFT = re.compile(r"\.(?P<name>.+)\.(?:lock|retired|[a-z0-9_]{8}\.partial)")
"""Names of what a process that was killed may leave beside what it wrote."""


def _left_beside(path: Path) -> list[Path]:
    """What processes that were killed, or still run, left beside a path."""
    found = ((other, _LEFT.fullmatch(other.name)) for other in path.parent.iterdir())
    return [other for other, match in found if match and match["name"] == path.name]


def _half_made(path: Path) -> list[Path]:
    return [other for other in _left_beside(path) if other.suffix == ".partial"]


def _clear_file(half_made: Path) -> None:
    """Remove a half-made file, unless its writer still runs."""
    with contextlib.suppress(FileNotFoundError), abandoned(half_made) as is_abandoned:
        if is_abandoned:
            half_made.unlink()


def sweep(folder: Path) -> None:
    """Clear away what processes that were killed left in a folder; those that still run are left alone."""
    if folder.is_dir():
        for name in {match["name"] for other in folder.iterdir() if (match := _LEFT.fullmatch(other.name))}:
            _settle(folder / name)


def _settle(path: Path) -> None:
    """Bring a path that a process was killed at into order, unless another one is writing there."""
    if path.parent.is_dir() and _left_beside(path):
        with contextlib.suppress(ConfigError), lock(path):
            _recover(path)


def _refuse(path: Path, *, replace: bool) -> None:
    refuse_place(path)
    if not path.exists() or (not replace and path.is_dir() and not any(path.iterdir())):
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
    found, ours = (
        sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()),
        _ours(folder),
    )
    return [name for name in found if name not in ours]


def _ours(folder: Path) -> set[str]:
    """Relative names of files that a folder's manifest names, or without one those of before there were manifests."""
    try:
        if not (folder / MANIFEST).exists():
            return set(BEFORE_MANIFESTS)
        listed = json.loads(read_capped(folder / MANIFEST, LARGEST_MANIFEST, kind="manifest"))["files"]
        return set(listed) | {MANIFEST}
    except (OSError, ConfigError, ValueError, KeyError, TypeError, RecursionError):
        return set()


def add_file(folder: Path, name: Path, content: bytes) -> None:
    """Write a file into a folder of ours, whole or not at all; the folder's manifest names it from just before on.

    Args:
        folder: of ours; what it holds beside stays.
        name: of the file, relative to the folder.
        content: of the file.
    """
    atomic_write(folder / MANIFEST, _manifest(_ours(folder) - {MANIFEST} | {name.as_posix()}))
    atomic_write(folder / name, content)


def _write_manifest(folder: Path) -> None:
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    (folder / MANIFEST).write_text(_manifest(names), encoding="utf-8")


def _manifest(names: Collection[str]) -> str:
    return json.dumps({"files": sorted(names)}, indent=1) + "\n"


def atomic_write(path: Path, content: str | bytes) -> None:
    """Write a file through a temporary sibling and a rename, so that a reader sees the old or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in _half_made(path):
        if other.is_file():
            _clear_file(other)
    data = content.encode() if isinstance(content, str) else content
    while not _written(path, data):
        pass
    sync(path.parent)


def _written(path: Path, data: bytes) -> bool:
    """Write a file through a sibling; `False` where another process took that away before it was marked as ours."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file, marked(Path(name)) as is_ours:
            if not is_ours:
                return False
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            file.close()  # before the rename, which some systems refuse for an open file
            os.chmod(name, 0o644)
            os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    return True


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of ``path`` that takes its place when the block succeeds.

    For files that another library writes by their name. One that stood there before stays untouched until then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in _half_made(path):
        if other.is_file():
            _clear_file(other)
    with contextlib.ExitStack() as held:
        is_ours, name = False, ""
        while not is_ours:  # another process may take it away before it is marked
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
            os.close(handle)
            is_ours = held.enter_context(marked(Path(name)))
        try:
            yield Path(name)
            with open(name, "rb") as file:
                os.fsync(file.fileno())  # a full disk may tell here first
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
        refuse_place(folder)
        _settle(Path(os.path.abspath(folder)))
    for folder in folders:
        whole = Path(os.path.realpath(folder))
        for source in read:
            if source is not None and whole in places(source):
                raise ConfigError(f"{cut(folder)} is or holds {cut(source)}, which is read; give another --out.")
        if folder.exists() and not force:
            raise ConfigError(f"{folder} exists already; give another --out, or --force to replace it.")
        _refuse(folder, replace=True)


def folder_name(text: str, *, words: int = 8) -> str:
    """A name for a folder from the first words of a text."""
    found: Sequence[str] = re.findall(r"[a-z0-9]+", text[:2_000].casefold())
    return "-".join(found[:words])[:80] or "task"
