"""Adapters of a server: on disk by name, and in memory as far as there is room."""

import secrets
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from loragen.adapters.folders import WEIGHTS_NAME
from loragen.bases.base import Base
from loragen.bases.linear_sites import Factors
from loragen.confidence.expected import ExpectedGain
from loragen.errors import AdapterError, ConfigError, LoragenError, shown
from loragen.exporters.card import GeneratedCard
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


@dataclass(frozen=True, eq=False)
class Facts:
    """What a list of adapters tells of one."""

    name: str
    labels: tuple[str, ...]
    description: str | None
    expected: ExpectedGain | None
    """What may be expected of it."""
    stamp: tuple[int, int]
    """Of the file of its weights: when it was written, and its size."""


@dataclass(frozen=True, eq=False)
class Served(Facts):
    """An adapter ready to answer with."""

    factors: Factors
    """Under the base's own names, float32."""
    card: GeneratedCard | None

    @property
    def bytes(self) -> int:
        """Memory that the factors take."""
        return sum(part.numel() * part.element_size() for pair in self.factors.values() for part in pair)

    @property
    def facts(self) -> Facts:
        """The same without the factors."""
        return Facts(self.name, self.labels, self.description, self.expected, self.stamp)


class AdapterStore:
    """Adapters of one base in one folder; the least used leave the memory first."""

    def __init__(self, root: Path, base: Base, limits: Limits) -> None:
        self.root, self._base, self._limits = root, base, limits
        self._kept: OrderedDict[str, Served] = OrderedDict()
        self._facts: dict[str, Facts] = {}
        self._lock = threading.Lock()
        self.bytes = 0
        """Memory that adapters take now."""
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
        stamp = self._stamp(name)
        while True:
            paths = sorted(path for path in self.folder(name).iterdir() if _is_shown(path))
            try:
                found = {path.name: path.read_bytes() for path in paths}
            except FileNotFoundError:
                found = {}
            was, stamp = stamp, self._stamp(name)
            if found and stamp == was:  # else it was replaced while it was read
                return found

    def written(self, name: str) -> int:
        """When an adapter was written, in Unix time.

        Raises:
            UnknownAdapter: there is none of that name.
        """
        return self._stamp(name)[0] // 10**9

    def _stamp(self, name: str) -> tuple[int, int]:
        file = self.folder(name) / WEIGHTS_NAME
        try:
            found = file.stat()
        except OSError:  # it was deleted just now
            raise UnknownAdapter(f"There is no adapter {shown(name)} any more.") from None
        return found.st_mtime_ns, found.st_size

    def get(self, name: str) -> Served:
        """An adapter, from memory or read anew.

        Raises:
            UnknownAdapter: there is none of that name.
            AdapterError: it is damaged, or made for another base.
        """
        stamp = self._stamp(name)
        with self._lock:
            if (kept := self._kept.get(name)) is not None and kept.stamp == stamp:
                self._kept.move_to_end(name)
                return kept
        read = self._read_whole(name, stamp)
        with self._lock:
            self._forget(name)
            self._kept[name], self._facts[name] = read, read.facts
            self.bytes += read.bytes
            while len(self._kept) > 1 and self.bytes > self._limits.cache:
                self._drop(next(iter(self._kept)))
        return read

    def facts(self, name: str) -> Facts:
        """What a list tells of an adapter, which is read for it only where it is new.

        Raises:
            UnknownAdapter: there is none of that name.
            AdapterError: it is damaged, or made for another base.
        """
        stamp = self._stamp(name)
        known = self._facts.get(name)
        return known if known is not None and known.stamp == stamp else self.get(name)

    def _forget(self, name: str) -> None:
        self._facts.pop(name, None)
        self._drop(name)

    def _drop(self, name: str) -> None:
        if (kept := self._kept.pop(name, None)) is not None:
            self.bytes -= kept.bytes

    def _read_whole(self, name: str, stamp: tuple[int, int]) -> Served:
        """An adapter as it stands on disk at one moment."""
        while True:
            read: Served | Exception
            try:
                read = self._read(name, self.root / name, stamp)
            except OSError as error:
                read = AdapterError(f"The adapter {name} cannot be read ({error.strerror}).")
            except LoragenError as error:
                read = error
            was, stamp = stamp, self._stamp(name)
            if stamp != was:
                continue  # it was replaced while it was read
            if isinstance(read, Exception):
                raise read
            return read

    def _read(self, name: str, folder: Path, stamp: tuple[int, int]) -> Served:
        adapter = Adapter.load(folder)
        made_for = None if adapter.card is None else adapter.card.base_hash
        if adapter.base != self._base.name or made_for not in (None, self._base.fingerprint):
            raise AdapterError(f"The adapter {name} was made for another base than {self._base.name}, which is served.")
        factors = {
            site: (a.contiguous(), b.contiguous()) for site, (a, b) in self._base.factors_of(adapter.lora).items()
        }
        with torch.no_grad(), self._base.using(factors):
            pass  # which refuses sites that the base does not have
        expected = None if adapter.card is None else adapter.card.outlook and adapter.card.outlook.expected
        return Served(name, adapter.labels, adapter.description, expected, stamp, factors, adapter.card)

    def add(self, name: str, adapter: Adapter, *, replace: bool = False) -> None:
        """Write an adapter, whole or not at all.

        Raises:
            ConfigError: the name is none, or taken.
            NoRoom: adapters take all the room that they may.
            AdapterError: the adapter leaves its base unchanged.
        """
        folder = self.root / self.free_name(name, replace=replace)
        if len(names := self.names()) >= self._limits.adapters and name not in names:
            raise NoRoom(f"{len(names):,} adapters are kept, which is the most; delete some.")
        if (taken := sum(map(_size, self.root.glob("*/*")))) >= self._limits.disk:
            raise NoRoom(f"Adapters take {taken / 1e9:.1f} GB on disk, which is the most they may; delete some.")
        adapter.save(folder, force=replace)

    def free_name(self, name: str, *, replace: bool = False) -> str:
        """A name that may be written to.

        Raises:
            ConfigError: it is no name, the base's own, or taken.
        """
        try:
            checked_name(name)
        except ValueError as error:
            raise ConfigError(f"{shown(name)} cannot be the name of an adapter: {error}.") from error
        if name in (self._base.name, self._base.name.rpartition("/")[2]):
            raise ConfigError(f"{shown(name)} is the name of the base; choose another.")
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
        if strangers := not_ours(folder):
            raise ConfigError(f"{name} holds {strangers[0]}, which loragen did not write; its folder is left alone.")
        doomed = folder.with_name(f".{name}.{secrets.token_hex(4)}{_DELETED}")
        with self._lock:
            self._forget(name)
            try:
                folder.rename(doomed)  # at once for all who look
            except FileNotFoundError:
                raise UnknownAdapter(f"There is no adapter {shown(name)} any more.") from None
        shutil.rmtree(doomed, ignore_errors=True)

    def listed(self) -> tuple[list[Facts], dict[str, str]]:
        """All adapters on disk that can be served, and of the others why they cannot."""
        found, broken = [], {}
        for name in self.names():
            try:
                found.append(self.facts(name))
            except UnknownAdapter:
                pass  # it was deleted just now
            except LoragenError as error:
                broken[name] = str(error)
        return found, broken


def _is_adapter(folder: Path) -> bool:
    """True for a folder with weights in it; links, which may lead anywhere, are none."""
    weights = folder / WEIGHTS_NAME
    return not folder.is_symlink() and not weights.is_symlink() and weights.is_file()


def _is_shown(file: Path) -> bool:
    return file.is_file() and not file.is_symlink() and not file.name.startswith(".")


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # it was deleted just now
        return 0


def _is_name(name: str) -> bool:
    try:
        checked_name(name)
    except ValueError:
        return False
    return True
