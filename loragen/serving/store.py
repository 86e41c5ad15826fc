"""Adapters of a server: on disk by name, and in memory as far as there is room."""

import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch

from loragen.adapters.folders import WEIGHTS_NAME
from loragen.bases.base import Base
from loragen.bases.linear_sites import Factors
from loragen.errors import AdapterError, ConfigError, LoragenError, shown
from loragen.exporters.card import GeneratedCard
from loragen.files import not_ours
from loragen.inference import Adapter
from loragen.serving.settings import Limits
from loragen.values import checked_name


class UnknownAdapter(ConfigError):
    """There is no adapter of that name."""


class NoRoom(ConfigError):
    """Adapters take all the room that they may."""


@dataclass(frozen=True, eq=False)
class Served:
    """An adapter ready to answer with."""

    name: str
    factors: Factors
    """Under the base's own names, float32."""
    labels: tuple[str, ...]
    description: str | None
    card: GeneratedCard | None
    stamp: tuple[int, int]
    """Of the file of its weights: when it was written, and its size."""

    @property
    def bytes(self) -> int:
        """Memory that the factors take."""
        return sum(part.numel() * part.element_size() for pair in self.factors.values() for part in pair)


class AdapterStore:
    """Adapters of one base in one folder; the least used leave the memory first."""

    def __init__(self, root: Path, base: Base, limits: Limits) -> None:
        self.root, self._base, self._limits = root, base, limits
        self._kept: OrderedDict[str, Served] = OrderedDict()
        self._lock = threading.Lock()
        root.mkdir(parents=True, exist_ok=True)

    @property
    def bytes(self) -> int:
        """Memory that adapters take now."""
        return sum(one.bytes for one in self._kept.values())

    def names(self) -> list[str]:
        """Names of all adapters on disk, in alphabetical order."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{WEIGHTS_NAME}") if _is_name(path.parent.name))

    def folder(self, name: str) -> Path:
        """The folder of an adapter: the one place that turns a name into a path.

        Raises:
            UnknownAdapter: the name is none, or there is no such adapter.
        """
        folder = self.root / name if _is_name(name) else None
        if folder is None or folder.is_symlink() or not (folder / WEIGHTS_NAME).is_file():
            raise UnknownAdapter(f"There is no adapter {shown(name)}; GET /v1/adapters lists those there are.")
        return folder

    def get(self, name: str) -> Served:
        """An adapter, from memory or read anew.

        Raises:
            UnknownAdapter: there is none of that name.
            AdapterError: it is damaged, or made for another base.
        """
        folder = self.folder(name)
        file = (folder / WEIGHTS_NAME).stat()
        stamp = (file.st_mtime_ns, file.st_size)
        with self._lock:
            if (kept := self._kept.get(name)) is not None and kept.stamp == stamp:
                self._kept.move_to_end(name)
                return kept
        read = self._read(name, folder, stamp)
        with self._lock:
            self._kept[name] = read
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and self.bytes > self._limits.cache:
                self._kept.popitem(last=False)
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
        return Served(name, factors, adapter.labels, adapter.description, adapter.card, stamp)

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
        taken = sum(file.stat().st_size for file in self.root.glob("*/*") if file.is_file())
        if taken >= self._limits.disk:
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
        with self._lock:
            self._kept.pop(name, None)
        doomed = folder.with_name(f".{name}.deleted")
        folder.rename(doomed)  # at once for all who look
        shutil.rmtree(doomed, ignore_errors=True)

    def broken(self) -> dict[str, str]:
        """Adapters on disk that cannot be served, and why."""
        found = {}
        for name in self.names():
            try:
                self.get(name)
            except LoragenError as error:
                found[name] = str(error)
        return found


def _is_name(name: str) -> bool:
    try:
        checked_name(name)
    except ValueError:
        return False
    return True
