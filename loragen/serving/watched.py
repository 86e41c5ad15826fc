"""The zoo of a server, opened again when experts have come or gone."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from loragen.errors import LoragenError
from loragen.zoo.changes import stamp_of
from loragen.zoo.zoo import Zoo, folder_of


@dataclass(eq=False)
class Watched:
    """A zoo and its log as they were seen last."""

    zoo: Zoo
    _stamp: tuple[int, int] | None
    _turn: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, root: Path | None) -> Self:
        """Open a zoo.

        Raises:
            ZooError: there is none, or it is damaged.
        """
        folder = folder_of(root)
        stamp = stamp_of(folder)  # before it is read
        return cls(_read(Zoo.open(folder)), stamp)

    def renewed(self) -> bool:
        """Open the zoo again if its log has changed; `False` where it has not, or the zoo cannot be read just now."""
        with self._turn:
            stamp = stamp_of(self.zoo.root)
            if stamp == self._stamp:
                return False
            try:
                self.zoo = _read(Zoo.open(self.zoo.root))
            except LoragenError:
                return False
            self._stamp = stamp
            return True


def _read(zoo: Zoo) -> Zoo:
    """The zoo with the hashes of its experts, which cannot be read any more when one has gone."""
    _ = zoo.fingerprint, zoo.drawn_on.fingerprint
    return zoo
