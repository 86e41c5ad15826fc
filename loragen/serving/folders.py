"""Adapters of a server on disk, a folder each by its name."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import final

from loragen.adapters.folders import WEIGHTS_NAME
from loragen.compose.stored import EXPERTS, MANIFEST, is_composition
from loragen.errors import ConfigError, shown
from loragen.files import not_ours, sweep
from loragen.inference import Adapter
from loragen.serving.settings import Limits
from loragen.values import checked_name

_DELETED = ".deleted"
"""Ending of folders that are being deleted."""


class UnknownAdapter(ConfigError):
    """There is no adapter of that name."""


class NoRoom(ConfigError):
    """Adapters take all the room that they may."""


@final
class AdapterFolders:
    """All that is done with the folders; names become paths here alone."""

    def __init__(self, root: Path, base_name: str, limits: Limits) -> None:
        self.root, self._base_name, self._limits = root, base_name, limits
        self._taken: int | None = None
        """Bytes on disk as far as they are known; others may write and delete too."""
        try:
            root.mkdir(parents=True, exist_ok=True)
            sweep(root)
            for doomed in root.glob(f".*{_DELETED}"):
                shutil.rmtree(doomed, ignore_errors=True)
        except OSError as error:
            raise ConfigError(f"Adapters cannot be kept in {root} ({error.strerror}); give another folder.") from error

    def names(self) -> list[str]:
        """Names of all adapters on disk, in alphabetical order."""
        return sorted(path.name for path in self.root.iterdir() if _is_name(path.name) and _is_adapter(path))

    def is_taken(self, name: str) -> bool:
        """True if something of that name stands there, an adapter or not."""
        return os.path.lexists(self.root / name)

    def folder(self, name: str) -> Path:
        """The folder of an adapter: the one place that turns a name into a path.

        Raises:
            UnknownAdapter: the name is none, or there is no such adapter.
        """
        if not _is_name(name) or not _is_adapter(self.root / name):
            raise UnknownAdapter(f"There is no adapter {shown(name)}; GET /v1/adapters lists those there are.")
        return self.root / name

    def files(self, name: str) -> dict[str, bytes]:
        """Files of an adapter by name, without hidden ones and links, which may lead anywhere.

        Raises:
            UnknownAdapter: there is none of that name.
        """
        stamp = self.stamp(name)
        while True:
            try:
                folder = self.folder(name)
                paths = sorted(path for path in _entries(folder) if _is_shown(path))
                found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
            except FileNotFoundError:
                found = {}
            was, stamp = stamp, self.stamp(name)
            if found and stamp == was:  # else it was replaced while it was read
                return found

    def written(self, name: str) -> int:
        """When an adapter was written, in Unix time.

        Raises:
            UnknownAdapter: there is none of that name.
        """
        return self.stamp(name)[0] // 10**9

    def stamp(self, name: str) -> tuple[int, int]:
        """When the weights of an adapter, or a composition, were written, and their size.

        Raises:
            UnknownAdapter: there is none of that name.
        """
        folder = self.folder(name)
        file = folder / (MANIFEST if is_composition(folder) else WEIGHTS_NAME)
        try:
            found = file.stat()
        except OSError:  # it was deleted just now
            raise UnknownAdapter(f"There is no adapter {shown(name)} any more.") from None
        return found.st_mtime_ns, found.st_size

    def add(self, name: str, adapter: Adapter, *, replace: bool = False) -> None:
        """Write an adapter, whole or not at all.

        Raises:
            ConfigError: the name is none, or taken.
            NoRoom: adapters take all the room that they may, or the disk is full.
            AdapterError: the adapter leaves its base unchanged.
        """
        folder = self.root / self.free_name(name, replace=replace)
        self._refuse_without_room(name)
        try:
            adapter.save(folder, force=replace)
        except OSError as error:
            raise NoRoom(f"The adapter {name} could not be written ({error.strerror}).") from error
        if self._taken is not None:
            self._taken += _bytes_within(folder)

    def _refuse_without_room(self, name: str) -> None:
        number = sum(1 for _ in os.scandir(self.root))
        if (
            number >= self._limits.adapters
            and len(names := self.names()) >= self._limits.adapters
            and name not in names
        ):
            raise NoRoom(f"{len(names):,} adapters are kept, which is the most; delete some.")
        if self._taken is None or self._taken >= self._limits.disk:
            self._taken = _bytes_within(self.root)
        if self._taken >= self._limits.disk:
            raise NoRoom(f"Adapters take {self._taken / 1e9:.1f} GB on disk, which is the most they may; delete some.")

    def free_name(self, name: str, *, replace: bool = False) -> str:
        """A name that may be written to.

        Raises:
            ConfigError: it is no name, the base's own, or taken.
        """
        try:
            checked_name(name)
        except ValueError as error:
            raise ConfigError(f"{shown(name)} cannot be the name of an adapter: {error}.") from error
        if name in (self._base_name, self._base_name.rpartition("/")[2]):
            raise ConfigError(f"{shown(name)} is the name of the base; choose another.")
        if (self.root / name).is_symlink():
            raise ConfigError(f"{shown(name)} is a link to elsewhere; choose another name.")
        if (self.root / name).exists() and not replace:
            raise ConfigError(f"There is an adapter {shown(name)} already; choose another name, or delete it first.")
        return name

    def remove(self, name: str) -> None:
        """Delete an adapter.

        Raises:
            UnknownAdapter: there is none of that name.
            ConfigError: its folder holds files that loragen did not write.
        """
        folder = self.folder(name)
        doomed = folder.with_name(f".{name}.{secrets.token_hex(4)}{_DELETED}")
        try:
            if strangers := not_ours(folder):
                raise ConfigError(
                    f"{name} holds {strangers[0]}, which loragen did not write; its folder is left alone."
                )
            folder.rename(doomed)  # at once for all who look
        except FileNotFoundError:
            raise UnknownAdapter(f"There is no adapter {shown(name)} any more.") from None
        shutil.rmtree(doomed, ignore_errors=True)
        self._taken = None


def _is_adapter(folder: Path) -> bool:
    """True for a folder with weights or a composition in it; links, which may lead anywhere, are none."""
    weights = folder / WEIGHTS_NAME
    if folder.is_symlink():
        return False
    return (not weights.is_symlink() and weights.is_file()) or is_composition(folder)


def _entries(folder: Path) -> Iterator[Path]:
    """What lies in an adapter's folder; in a composition's, what lies in its experts' folders too."""
    yield from folder.iterdir()
    if is_composition(folder):
        for name, experts, _ in os.walk(folder / EXPERTS, followlinks=False):
            experts[:] = [one for one in experts if not one.startswith(".")]
            yield from Path(name).iterdir()


def _is_shown(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and not file.name.startswith(".")


def _bytes_within(root: Path) -> int:
    """Bytes of all files, of which any may be deleted meanwhile."""
    total = 0
    for folder, _, files in os.walk(root):
        for file in files:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(folder, file)).st_size
    return total


def _is_name(name: str) -> bool:
    try:
        checked_name(name)
    except ValueError:
        return False
    return True
