"""Verdicts on what loads an adapter, and the remarks that several of them share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture

MERGE = "`loragen merge ADAPTER --out MODEL` makes a plain model of it"
REWRITE = "`loragen combine ADAPTER --out OUT` writes it as PEFT does"
OTHER_BASE = "serve it on the base it was made for"
UNCHECKED = "not compared with the base, whose config is not at hand"


@dataclass(frozen=True)
class Verdict:
    """Judgement on an adapter in one library or server."""

    server: str
    loads: bool
    """True if the server takes the adapter at all, however wrong it then serves it."""
    problems: tuple[str, ...] = ()
    """Reasons why it does not load, and all that is wrong in silence, each with the way out."""
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, server: str, refusals: Sequence[str] = (), silent: Sequence[str] = (), notes: Sequence[str] = ()
    ) -> "Verdict":
        """The verdict of a server that loads an adapter where it has no refusals."""
        return cls(server, not refusals, (*refusals, *silent), tuple(notes))


def wrong_shapes(adapter: Lora, base: Architecture) -> list[str]:
    """The refusal of sites that have other sizes in the base, if any; one site stands for all."""
    return [
        f"{site.name!r} has another shape in {base.model_class}; {OTHER_BASE}."
        for site in base.misshapen(adapter.spec)[:1]
    ]


def wrong_scaling(server: str, adapter: Lora) -> list[str]:
    """The problem of a scaling that r and lora_alpha alone do not give, if any; one site stands for all."""
    plain = replace(adapter.settings, rank_pattern={}, alpha_pattern={})
    for site in adapter.sites:
        meant, met = adapter.settings.scaling(site), plain.scaling(site)
        if not math.isclose(meant, met):
            return [
                f"{server} knows no rank_pattern or alpha_pattern and would scale {site!r} by {met:.4g} instead of "
                f"{meant:.4g}; `loragen combine ADAPTER --out OUT` writes it with one scaling."
            ]
    return []


def way_to_rename(base: Architecture, sites: Sequence[str]) -> str:
    """The way out of sites that the base has under another prefix; an empty text where it has not."""
    prefixes = base.renaming(sites)
    return f"rename {sites[0]!r} to {prefixes[1] + sites[0][len(prefixes[0]) :]!r} and so on" if prefixes else ""


def counted(sites: Sequence[str], adapter: Lora) -> str:
    """Some sites of an adapter in words."""
    if len(sites) == len(adapter.sites):
        return "all of its sites"
    return f"{len(sites)} of its {len(adapter.sites)} sites (such as {sites[0]!r})"


def last_name(path: str) -> str:
    """The last part of a module's path."""
    return path.rpartition(".")[2]
