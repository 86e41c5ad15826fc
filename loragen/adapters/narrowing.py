"""Settings that leave modules out which ``target_modules`` covers: excluded names, and layers that are not chosen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError, shown
from loragen.patterns import compiles, match_of, matches

KEYS = ("exclude_modules", "layers_pattern", "layers_to_transform")
_ANY_LIST, _NUMBER = r"[^.]*", r"\.(?P<number>\d+)\."


@dataclass(frozen=True)
class Narrowing:
    """PEFT's ``exclude_modules``, ``layers_to_transform`` and ``layers_pattern``.

    Raises:
        AdapterError: one of them is of the wrong kind.
    """

    excluded: tuple[str, ...] | str = ()
    """Names of modules or their dotted endings, or one regular expression for whole names."""
    layers: tuple[int, ...] = ()
    """Numbers of the layers that are adapted; all where there are none."""
    patterns: tuple[str, ...] = ()
    """Regular expressions for the names of lists of layers; any list where there are none."""

    def __post_init__(self) -> None:
        whole = (self.excluded,) if isinstance(self.excluded, str) else ()
        for key, value in (("exclude_modules", whole), ("layers_pattern", self.patterns)):
            if not all(isinstance(each, str) and compiles(each) for each in value):
                raise AdapterError(f"{key} is {shown(value)}; names or regular expressions were wanted.")
        if not all(isinstance(name, str) for name in self.excluded):
            raise AdapterError(f"exclude_modules is {shown(self.excluded)}; names of modules were wanted.")
        if not all(isinstance(layer, int) and not isinstance(layer, bool) for layer in self.layers):
            raise AdapterError(f"layers_to_transform is {shown(self.layers)}; numbers of layers were wanted.")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self | None:
        """Take the settings from an ``adapter_config.json``; `None` where it has none of them."""
        excluded, patterns, layers = (config.get(key) for key in KEYS)
        if all(value in (None, [], "") for value in (excluded, patterns, layers)):
            return None
        return cls(
            excluded if isinstance(excluded, str) and excluded else _listed(excluded, "exclude_modules"),
            _listed(layers, "layers_to_transform"),
            _listed([patterns] if isinstance(patterns, str) and patterns else patterns, "layers_pattern"),
        )

    def keeps(self, site: str, settings: LoraSettings) -> bool:
        """True if PEFT adapts a module that ``target_modules`` covers under these settings."""
        if isinstance(self.excluded, str):
            if matches(self.excluded, site):
                return False
        elif any(site == name or site.endswith(f".{name}") for name in self.excluded):
            return False
        # Layers are looked at for endings of names alone: not for a whole name, and not for a regular expression.
        if not self.layers or isinstance(settings.target_modules, str) or site in settings.target_modules:
            return True
        return self._layer(site) in self.layers

    def _layer(self, site: str) -> int | None:
        """The number of the layer that a module is in, counted by the outermost list of layers."""
        for pattern in self.patterns or (_ANY_LIST,):
            # A pattern with alternatives may match without a number.
            begin = r"(?:^|.*?\.)" if self.patterns else r".*?\."
            if (found := match_of(begin + pattern + _NUMBER, site)) is not None:
                return int(found["number"]) if found["number"] else None
        return None


def _listed(value: Any, key: str) -> tuple[Any, ...]:
    if value is None or value == "":
        return ()
    if isinstance(value, list):
        return tuple(value)
    if isinstance(value, int):
        return (value,)
    raise AdapterError(f"{key} is {shown(value)}; a list was wanted.")
