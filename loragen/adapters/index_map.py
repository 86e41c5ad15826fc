"""Which features of a full base a pruned one kept: the index map that recovers an adapter of the pruned base (LoRAM).

Zhang et al. 2025, arXiv 2502.13533. The map is a small JSON file beside the pruned base, and beside what was recovered
by it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, final

from loragen.adapters.reading import parsed, shorter
from loragen.adapters.settings import natural
from loragen.errors import AdapterError, ConfigError, cut, shown
from loragen.paths import read_capped
from loragen.values import LARGEST_LAYER

PRUNED = "pruned.json"
"""File of an index map in the folder of a pruned base or of a recovered adapter."""
LARGEST_MAP = 100_000_000
"""Bytes of a map; that of a model of 70 billion parameters, half of its neurons pruned, has about 25 million."""
MOST_SITES = 100_000
MOST_FEATURES = 10_000_000
"""Features of a side that is not pruned, such as the logits of a large vocabulary."""
LONGEST_NAME = 4_096
_FORMAT, _NEXT = 1, ",\n"
_WAY_OUT = "prune the base again with `loragen base prune`"
_SITE_KEYS = {"out_features", "in_features", "kept_out", "kept_in"}
_KEYS = {"format", "base", "base_hash", "sites"}


@final
@dataclass(frozen=True)
class SiteMap:
    """One linear module of the full base, and the features that the pruned one kept there.

    Raises:
        ConfigError: sizes or indices are not those of a linear module.
    """

    out_features: int
    """Of the full base."""
    in_features: int
    """Of the full base."""
    kept_out: tuple[int, ...] | None = None
    """Indices of outputs that were kept, ascending; `None` where all were."""
    kept_in: tuple[int, ...] | None = None
    """Indices of inputs that were kept, ascending; `None` where all were."""

    def __post_init__(self) -> None:
        for side, size, kept in (
            ("out", self.out_features, self.kept_out),
            ("in", self.in_features, self.kept_in),
        ):
            most = MOST_FEATURES if kept is None else LARGEST_LAYER
            if not _is_whole(size) or not 1 <= size <= most:
                raise ConfigError(f"{side}_features is {shown(size)}; a whole number from 1 to {most:,} was wanted.")
            if kept is not None:
                _check_indices(f"kept_{side}", kept, size)

    @property
    def pruned_size(self) -> tuple[int, int]:
        """(out, in) of the pruned base."""
        return (
            self.out_features if self.kept_out is None else len(self.kept_out),
            self.in_features if self.kept_in is None else len(self.kept_in),
        )


@final
@dataclass(frozen=True)
class IndexMap:
    """Site → what was kept there, for every linear module of a base.

    Raises:
        ConfigError: it names no base or no sites.
    """

    base: str
    """Folder or Hub name of the full base."""
    base_hash: str
    """Hash of the full base's weights; empty where it is not known."""
    sites: Mapping[str, SiteMap]

    def __post_init__(self) -> None:
        for name, value in (("base", self.base), ("base_hash", self.base_hash)):
            if not isinstance(value, str) or len(value) > LONGEST_NAME or (name == "base" and not value.strip()):
                raise ConfigError(f"{name} is {shown(value)}; a name was wanted.")
        if not 1 <= len(self.sites) <= MOST_SITES:
            raise ConfigError(f"It has {len(self.sites):,} sites; 1 to {MOST_SITES:,} were wanted.")
        object.__setattr__(self, "sites", {site: self.sites[site] for site in sorted(self.sites, key=natural)})

    def at(self, site: str) -> SiteMap:
        """What was kept at a site of an adapter, also where a class of models puts a prefix before its name.

        Raises:
            AdapterError: the base has no such site, or several.
        """
        if site in self.sites:
            return self.sites[site]
        near = [name for name in self.sites if name.endswith(f".{site}") or site.endswith(f".{name}")]
        if len(near) == 1:
            return self.sites[near[0]]
        met = f"has {len(near)} of this ending" if near else "does not have"
        raise AdapterError(
            f"The adapter targets {shown(site)}, which the index map of the base {cut(self.base)} {met}; give the map "
            "of the base that the adapter was trained on with --map."
        )

    def to_json(self) -> str:
        """The map as JSON, a line a site; equal maps give equal text."""
        head = {"format": _FORMAT, "base": self.base, "base_hash": self.base_hash}
        lines = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in head.items()]
        sites = [f"{json.dumps(name)}: {json.dumps(asdict(site))}" for name, site in self.sites.items()]
        return f'{{{"".join(lines)}"sites": {{\n{_NEXT.join(sites)}\n}}}}\n'

    @classmethod
    def from_json(cls, data: bytes, *, source: str) -> Self:
        """Read a map; ``source`` names its origin in errors.

        Raises:
            ConfigError: it is damaged, or none.
        """
        try:
            if len(data) > LARGEST_MAP:
                raise ValueError(f"it has over {LARGEST_MAP:,} bytes")
            values = parsed(data)
            if not isinstance(values, dict) or values.keys() != _KEYS or values["format"] != _FORMAT:
                raise ValueError(f"a mapping of {', '.join(sorted(_KEYS))} was wanted, of format {_FORMAT}")
            sites = values["sites"]
            if not isinstance(sites, dict) or len(sites) > MOST_SITES:
                raise ValueError(f"sites is no mapping of at most {MOST_SITES:,} names")
            found = {name: _site_from(name, entry) for name, entry in sites.items()}
            return cls(values["base"], values["base_hash"], found)
        except (ValueError, ConfigError) as error:
            raise ConfigError(f"{cut(source)} is no index map ({shorter(error)}); {_WAY_OUT}.") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a map's file, or that in a folder.

        Raises:
            ConfigError: there is none, or it is damaged.
        """
        file = path / PRUNED if path.is_dir() else path
        return cls.from_json(read_capped(file, LARGEST_MAP, kind="index map"), source=str(file))


def _site_from(name: str, entry: Any) -> SiteMap:
    if not isinstance(entry, dict) or entry.keys() != _SITE_KEYS or not 1 <= len(name) <= LONGEST_NAME:
        raise ValueError(f"{cut(name)} has other entries than {', '.join(sorted(_SITE_KEYS))}")
    for key in ("kept_out", "kept_in"):
        if not isinstance(entry[key], list | None):
            raise ValueError(f"{key} of {cut(name)} is no list")
    kept_out, kept_in = (None if entry[key] is None else tuple(entry[key]) for key in ("kept_out", "kept_in"))
    try:
        return SiteMap(entry["out_features"], entry["in_features"], kept_out, kept_in)
    except ConfigError as error:
        raise ValueError(f"{cut(name)}: {error}") from error


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_indices(name: str, kept: Iterable[object], size: int) -> None:
    indices = tuple(kept)
    if not indices or not all(map(_is_whole, indices)):
        raise ConfigError(f"{name} is not a list of one whole number or more.")
    if indices[0] < 0 or indices[-1] >= size or not all(a < b for a, b in pairwise(indices)):  # type: ignore[operator]
        raise ConfigError(f"{name} does not ascend from 0 or above to below {size}.")
