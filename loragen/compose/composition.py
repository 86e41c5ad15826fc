"""Experts and a gate between their factors, which is put on a base as it is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from torch import Tensor

from loragen.bases.base import Base, Switch
from loragen.compose.experts import Experts
from loragen.compose.registry import Row, row_named
from loragen.compose.settings import ComposeSettings
from loragen.compose.switching import put_on, updates_of
from loragen.compose.text_rows import CurrentRows
from loragen.errors import AdapterError


@final
@dataclass(frozen=True, eq=False)
class Composition(Switch):
    """Experts, and how a method gates them for each input.

    Raises:
        AdapterError: the method is static, or the tensors are not those of its gates.
    """

    method: str
    settings: ComposeSettings
    experts: Experts
    tensors: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = self.row.shapes
        if shapes is None:
            raise AdapterError(f"The method {self.method} is static: it gives an ordinary adapter and no composition.")
        wanted = shapes(self.experts, self.settings)
        if strange := sorted(wanted.keys() ^ self.tensors.keys()):
            what = "missing" if strange[0] in wanted else "of no use to it"
            raise AdapterError(f"The gate tensor {strange[0]} is {what} for the method {self.method}; compose again.")
        for name, shape in wanted.items():
            met = tuple(self.tensors[name].shape)
            if len(met) != len(shape) or any(size not in (None, own) for size, own in zip(shape, met, strict=True)):
                told = ", ".join("any" if size is None else str(size) for size in shape)
                raise AdapterError(f"The gate tensor {name} has the shape {met}; ({told}) was wanted. Compose again.")

    @property
    def row(self) -> Row:
        """The method's row."""
        return row_named(self.method)

    @property
    def bytes(self) -> int:
        """Memory that factors and gates take."""
        factors = (part for at in self.experts.sites.values() for part in (at.lora_A, at.lora_B))
        return sum(part.numel() * part.element_size() for part in (*factors, *self.tensors.values()))

    @contextmanager
    def put_on(self, base: Base) -> Iterator[None]:
        """Add what the experts give under the gate to a base while the block runs.

        Raises:
            AdapterError: the base lacks a site, has another shape there, or is no text encoder where one is wanted.
        """
        row = self.row
        assert row.gates is not None
        current = CurrentRows() if row.by_text else None
        rows = () if current is None else (current,)
        gates = row.gates(self.experts, self.settings, self.tensors, *rows)
        router = None if row.router is None else row.router(self.settings, self.tensors)
        with put_on(base, updates_of(self.experts, gates), current, router):
            yield
