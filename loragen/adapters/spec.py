"""The table of sites that adapters share: names and sizes, without their values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from loragen.adapters.settings import natural


class Matrix(Protocol):
    """What has the shape of a matrix."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""


@dataclass(frozen=True)
class Site:
    """An adapted module and its sizes: A is (r, in_features), B is (out_features, r)."""

    name: str
    out_features: int
    in_features: int
    r: int


@dataclass(frozen=True)
class AdapterSpec:
    """The table of sites that adapters share to live in one space, in natural order (layer 2 before layer 10)."""

    sites: tuple[Site, ...]

    def __post_init__(self) -> None:
        assert len({site.name for site in self.sites}) == len(self.sites), "a site is listed twice"
        object.__setattr__(self, "sites", tuple(sorted(self.sites, key=lambda site: natural(site.name))))

    @classmethod
    def of(cls, lora_A: Mapping[str, Matrix], lora_B: Mapping[str, Matrix]) -> "AdapterSpec":
        """The table of an adapter's factors by site, tensors or arrays."""
        sizes = ((site, lora_B[site].shape[0], a.shape[1], a.shape[0]) for site, a in lora_A.items())
        return cls(tuple(Site(*each) for each in sizes))

    def difference(self, other: "AdapterSpec", *, in_rank: bool = True) -> str | None:
        """The first mismatch in words ("here" is this table, "there" the other); None where the tables agree.

        ``in_rank`` counts ranks that differ.
        """
        here = {site.name: site for site in self.sites}
        there = {site.name: site for site in other.sites}
        for name in sorted(here.keys() | there.keys(), key=natural):
            if name not in there:
                return f"{name} is adapted here but not there"
            if name not in here:
                return f"{name} is adapted there but not here"
            for size in ("r", "in_features", "out_features")[0 if in_rank else 1 :]:
                ours, theirs = getattr(here[name], size), getattr(there[name], size)
                if ours != theirs:
                    return f"{name} has {size}={ours} here but {size}={theirs} there"
        return None
