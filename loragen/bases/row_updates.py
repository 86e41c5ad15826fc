"""Batches in which every row has an adapter of its own: the rows' factors are gathered, and added to each row's output.

The base is computed once for all rows, as in S-LoRA and Punica (Sheng et al. 2023; Chen et al. 2023).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.bases.end_to_end import layout_in_use
from loragen.bases.linear_sites import Factors, checked_site, updates_are_left_out

Stacks = Mapping[str, tuple[Tensor, Tensor]]
"""Site → A's of several adapters (m, r, in), and scaling · B's (m, out, r)."""


def stacked(adapters: Sequence[Factors]) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of several adapters by site; zero where an adapter has no such site, or a lower rank."""
    sites = list(dict.fromkeys(site for factors in adapters for site in factors))
    found = {}
    for site in sites:
        held = [factors.get(site) for factors in adapters]
        one = next(pair for pair in held if pair is not None)
        r = max(len(pair[0]) for pair in held if pair is not None)
        nothing = (one[0].new_zeros(0, one[0].shape[1]), one[1].new_zeros(len(one[1]), 0))
        pairs = [nothing if pair is None else pair for pair in held]
        found[site] = (
            torch.stack([F.pad(a, (0, 0, 0, r - len(a))) for a, _ in pairs]),
            torch.stack([F.pad(b, (0, r - b.shape[1])) for _, b in pairs]),
        )
    return found


@dataclass(frozen=True, eq=False)
class RowUpdates:
    """Adapters of one base, and which of them each row of the next batches has."""

    stacks: Stacks
    places: Tensor
    """Number of each row's adapter, (n,)."""

    @classmethod
    def of(cls, rows: Sequence[Factors]) -> "RowUpdates":
        """The factors of each row; rows of one adapter give the same object."""
        distinct = list({id(factors): factors for factors in rows}.values())
        numbers = {id(factors): number for number, factors in enumerate(distinct)}
        return cls(stacked(distinct), torch.tensor([numbers[id(factors)] for factors in rows]))


@contextmanager
def row_updates(model: nn.Module, base: str, updates: RowUpdates) -> Iterator[None]:
    """Add to each row of a batch what its own adapter adds, while the block runs.

    Every batch in the block has the rows of ``updates`` in their order.

    Raises:
        AdapterError: the model lacks a site, or has another shape there.
    """
    handles = []
    try:
        for site, (lora_a, lora_b) in updates.stacks.items():
            module = checked_site(model, base, site, lora_b.shape[1], lora_a.shape[2])
            factors = lora_a[updates.places].transpose(1, 2), lora_b[updates.places].transpose(1, 2)
            handles.append(module.register_forward_hook(partial(_add, factors=factors)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, factors: tuple[Tensor, Tensor]) -> Tensor:
    if updates_are_left_out():
        return output
    lora_a, lora_b = factors  # (n, in, r), (n, r, out)
    x = inputs[0]
    layout = layout_in_use()
    rows = x.reshape(len(lora_a), -1, x.shape[-1]) if layout is None else layout.apart(x[0])
    added = torch.bmm(torch.bmm(rows, lora_a.to(x)), lora_b.to(x))
    return output + (added if layout is None else layout.together(added)).view(output.shape)
