"""Experts as rows of coordinates, some at a time: of a packed zoo straight from its shards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from loragen.adapters.frame import Frame
from loragen.conditions.inverted_lists import chunks
from loragen.zoo.card_table import CardTable, Columns
from loragen.zoo.start import frame_of
from loragen.zoo.zoo import Zoo

AT_ONCE = 512
"""Experts that are read at once: 38 MB over MiniLM."""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The experts of a packed zoo as coordinates over its frame."""

    zoo: Zoo
    frame: Frame

    @classmethod
    def of(cls, zoo: Zoo) -> "Coordinates":
        """Of a packed zoo, whose experts share one A: any one of them has their frame."""
        return cls(zoo, frame_of(zoo, [zoo.adapter(zoo.ids[0])]))

    @cached_property
    def columns(self) -> Columns:
        """Where the experts lie."""
        assert isinstance(self.zoo.cards, CardTable)
        return self.zoo.cards.columns()

    @cached_property
    def _are_rows(self) -> bool:
        return self.zoo.sharded is not None and self.zoo.sharded.shared.is_frame(self.frame)

    def at(self, positions: Sequence[int]) -> Tensor:
        """Coordinates of the experts at some positions of ``zoo.ids``, float32 (n, d)."""
        if not self._are_rows:
            return torch.stack([self.frame.coordinates(self.zoo.adapter(self.zoo.ids[at])) for at in positions])
        assert self.zoo.sharded is not None
        at = np.asarray(positions, dtype=np.int64)
        return self.zoo.sharded.coordinates(self.columns.shard[at], self.columns.place[at])

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """All experts, in parts."""
        for part in chunks(len(self.zoo), AT_ONCE):
            yield part, self.at(range(part.start, part.stop))


def spread(number: int, most: int) -> list[int]:
    """At most so many positions, evenly spread over ``number``."""
    wanted = min(number, most)
    return [at * number // wanted for at in range(wanted)]
