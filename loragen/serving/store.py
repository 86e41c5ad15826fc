"""Adapters of a server: on disk by name, and in memory as far as there is room."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import final

from loragen.bases.base import Base
from loragen.bases.linear_sites import checked_site
from loragen.bases.renaming import names_in, refuse_fused
from loragen.bases.wording import Wording
from loragen.compose.composed import Composed, open_adapter
from loragen.compose.composition import Composition
from loragen.confidence.expected import ExpectedGain
from loragen.errors import AdapterError, LoragenError
from loragen.exporters.card import GeneratedCard
from loragen.inference import Adapter
from loragen.serving.applied import Applied
from loragen.serving.folders import AdapterFolders, UnknownAdapter
from loragen.serving.settings import Limits


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
class Served:
    """An adapter ready to answer with."""

    facts: Facts
    factors: Applied
    """Under the base's own names, float32; or a dynamic composition."""
    card: GeneratedCard | None
    has_frozen_labels: bool = False
    """Texts are compared with label texts as the base alone embeds them."""

    @property
    def wording(self) -> Wording | None:
        """How its task is put to a language model; `None` where no card says so, and the base's own words do."""
        return None if self.card is None else self.card.wording

    @property
    def bytes(self) -> int:
        """Memory that the factors take."""
        if isinstance(self.factors, Composition):
            return self.factors.bytes
        assert isinstance(self.factors, Mapping)
        return sum(part.numel() * part.element_size() for pair in self.factors.values() for part in pair)


@final
class AdapterStore:
    """Adapters of one base; the least used leave the memory first."""

    def __init__(self, root: Path, base: Base, limits: Limits) -> None:
        self.folders = AdapterFolders(root, base.name, limits)
        self._base, self._limits = base, limits
        self._kept: OrderedDict[str, Served] = OrderedDict()
        self._facts: dict[str, Facts] = {}
        self._lock = threading.Lock()
        self.bytes = 0
        """Memory that adapters take now."""

    def get(self, name: str) -> Served:
        """An adapter, from memory or read anew.

        Raises:
            UnknownAdapter: there is none of that name.
            AdapterError: it is damaged, or made for another base.
        """
        stamp = self.folders.stamp(name)
        with self._lock:
            if (kept := self._kept.get(name)) is not None and kept.facts.stamp == stamp:
                self._kept.move_to_end(name)
                return kept
        read = self._read_whole(name, stamp)
        self._keep(read)
        return read

    def add(self, name: str, adapter: Adapter, *, replace: bool = False) -> None:
        """Write an adapter, and have it at hand; errors are those of the folders."""
        self.folders.add(name, adapter, replace=replace)
        with suppress(LoragenError):  # it may have been deleted just now, and who asks for it hears of other faults
            self._keep(self._served(name, adapter, self.folders.stamp(name)))

    def _keep(self, read: Served) -> None:
        with self._lock:
            name = read.facts.name
            self._forget(name)
            self._kept[name], self._facts[name] = read, read.facts
            self.bytes += read.bytes
            while len(self._kept) > 1 and self.bytes > self._limits.cache:
                self._drop(next(iter(self._kept)))

    def facts(self, name: str) -> Facts:
        """What a list tells of an adapter, which is read for it only where it is new.

        Raises:
            UnknownAdapter: there is none of that name.
            AdapterError: it is damaged, or made for another base.
        """
        stamp = self.folders.stamp(name)
        known = self._facts.get(name)
        return known if known is not None and known.stamp == stamp else self.get(name).facts

    def remove(self, name: str) -> None:
        """Delete an adapter, on disk and in memory; errors are those of the folders."""
        self.folders.remove(name)
        with self._lock:
            self._forget(name)

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
                read = self._read(name, self.folders.root / name, stamp)
            except OSError as error:
                read = AdapterError(f"The adapter {name} cannot be read ({error.strerror}).")
            except LoragenError as error:
                read = error
            was, stamp = stamp, self.folders.stamp(name)
            if stamp != was:
                continue  # it was replaced while it was read
            if isinstance(read, Exception):
                raise read
            return read

    def _read(self, name: str, folder: Path, stamp: tuple[int, int]) -> Served:
        return self._served(name, open_adapter(folder), stamp)

    def _served(self, name: str, adapter: Adapter | Composed, stamp: tuple[int, int]) -> Served:
        made_for = None if adapter.card is None else adapter.card.base_hash
        if adapter.base != self._base.name or made_for not in (None, self._base.fingerprint):
            raise AdapterError(f"The adapter {name} was made for another base than {self._base.name}, which is served.")
        factors = self._composed(adapter) if isinstance(adapter, Composed) else self._factors(adapter)
        outlook = None if adapter.card is None else adapter.card.outlook
        expected = None if outlook is None else outlook.expected
        facts = Facts(name, adapter.labels, adapter.description, expected, stamp)
        return Served(facts, factors, adapter.card, has_frozen_labels=adapter.label_targets == "frozen")

    def _factors(self, adapter: Adapter) -> Applied:
        factors = {
            site: (a.contiguous(), b.contiguous()) for site, (a, b) in self._base.factors_of(adapter.lora).items()
        }
        for site, (lora_a, lora_b) in factors.items():  # nothing may be put on the base, which computes elsewhere
            self._check(site, lora_b.shape[0], lora_a.shape[1])
        return factors

    def _composed(self, composed: Composed) -> Applied:
        composed.check_base(self._base)
        sites = composed.composition.experts.sites
        names = names_in(self._base.model, list(sites))
        refuse_fused(names, type(self._base.model).__name__)
        for site, at in sites.items():
            self._check(names[site] or site, len(at.lora_B), at.lora_A.shape[1])
        return composed.composition

    def _check(self, site: str, out_features: int, in_features: int) -> None:
        checked_site(self._base.model, self._base.name, site, out_features, in_features)

    def listed(self) -> tuple[list[Facts], dict[str, str]]:
        """All adapters on disk that can be served, and of the others why they cannot."""
        found, broken = [], {}
        for name in self.folders.names():
            try:
                found.append(self.facts(name))
            except UnknownAdapter:
                pass  # it was deleted just now
            except LoragenError as error:
                broken[name] = str(error)
        return found, broken
