"""Experts and the gates between their factors, put on a base for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from loragen.adapters.rank_gate import Gate, GatedUpdate
from loragen.bases.base import Base
from loragen.bases.linear_sites import Updates
from loragen.bases.renaming import names_in, refuse_fused
from loragen.compose.experts import Experts
from loragen.compose.text_rows import CurrentRows, Router, following

Gates = Mapping[str, Tensor | Gate]
"""Site → the gate on the ranks there."""


def updates_of(experts: Experts, gates: Gates) -> dict[str, GatedUpdate]:
    """Site → what experts add there under a gate."""
    return {site: GatedUpdate(at.lora_A, at.lora_B, gates[site]) for site, at in experts.sites.items()}


@contextmanager
def put_on(
    base: Base,
    updates: Mapping[str, GatedUpdate],
    current: CurrentRows | None = None,
    router: Router | None = None,
) -> Iterator[None]:
    """Add gated updates to a base while the block runs.

    Args:
        base: of the experts.
        updates: by site, under the names that an adapter has them.
        current: the texts of the batch, for gates that are computed from whole texts.
        router: weighs the experts by what the bare base makes of each text; ``current`` holds its weights then.

    Raises:
        AdapterError: the base lacks a site, has another shape there, or is of another kind than the gates want.
    """
    names = names_in(base.model, list(updates))
    refuse_fused(names, type(base.model).__name__)
    renamed: Updates = {new or site: updates[site] for site, new in names.items()}
    if current is None:
        with base.using(renamed):
            yield
        return
    with following(base, current, router), base.using(renamed):
        yield
