"""The layers below the first that an adapter touches: what they give for a row of tokens is computed once and kept."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

MOST_BYTES = 4 * 2**30
"""Of states kept; rows beyond it are computed each time."""
_LEAST_LAYERS = 2
"""Fewer layers below are not worth keeping their states."""


@final
class _Given(nn.Module):
    """Stands in for a layer: gives states that were computed before, or what it got."""

    def __init__(self, states: Tensor | None, place: int, as_tuple: bool) -> None:
        super().__init__()
        self.states, self.place, self.as_tuple = states, place, as_tuple

    def forward(self, hidden: Tensor, *args: object, **options: Any) -> Any:
        """The states; the cache, from which masks are made, is told how many tokens were read."""
        if self.states is not None:
            hidden = self.states
            cache = options.get("past_key_values", options.get("layer_past"))
            for part in (cache, *args):
                if hasattr(part, "update") and hasattr(part, "get_seq_length"):
                    nothing = hidden.new_zeros(len(hidden), 1, hidden.shape[1], 1)
                    part.update(nothing, nothing, self.place)
        return (hidden,) if self.as_tuple else hidden


@final
@dataclass
class LowerLayers:
    """The lower layers of a decoder, and the states above them of rows that were read before."""

    layers: nn.ModuleList
    number: int
    """How many of the layers are lower ones."""
    as_tuple: bool = False
    """Layers give tuples, as those of older models do."""
    kept: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    """Row of tokens → states, (length, hidden)."""
    bytes_kept: int = 0

    @classmethod
    def below(cls, body: nn.Module, sites: Iterable[str], model: nn.Module) -> "LowerLayers | None":
        """The layers below all sites; `None` where there are next to none, or the layers cannot be told."""
        number = getattr(body.config, "num_hidden_layers", None)
        lists = [one for one in body.named_children() if isinstance(one[1], nn.ModuleList) and len(one[1]) == number]
        if len(lists) != 1 or not isinstance(layers := lists[0][1], nn.ModuleList):
            return None
        names = {id(module): name for name, module in model.named_modules()}
        places = [
            next((i for i, layer in enumerate(layers) if site.startswith(f"{names[id(layer)]}.")), 0) for site in sites
        ]
        lowest = min(places, default=0)
        return cls(layers, lowest) if lowest >= _LEAST_LAYERS else None

    @contextmanager
    def given(self, states: Tensor) -> Iterator[None]:
        """Put states (n, length, hidden) in place of what the lower layers would compute."""
        stand_ins = [_Given(states, i, self.as_tuple) for i in range(self.number)]
        with self._replaced(range(self.number), stand_ins):
            yield

    @contextmanager
    def alone(self) -> Iterator[list[Tensor]]:
        """Run the lower layers alone; their states are added to the list."""
        found: list[Tensor] = []

        def keep(_module: nn.Module, _inputs: object, output: Any) -> None:
            self.as_tuple = isinstance(output, tuple)
            found.append(output[0] if self.as_tuple else output)

        upper = range(self.number, len(self.layers))
        hook = self.layers[self.number - 1].register_forward_hook(keep)
        try:
            with self._replaced(upper, [_Given(None, i, self.as_tuple) for i in upper]):
                yield found
        finally:
            hook.remove()

    @contextmanager
    def _replaced(self, places: Iterable[int], stand_ins: Sequence[nn.Module]) -> Iterator[None]:
        real = list(self.layers)
        try:
            for place, stand_in in zip(places, stand_ins, strict=True):
                self.layers[place] = stand_in
            yield
        finally:
            for place, layer in enumerate(real):
                self.layers[place] = layer

    def unknown(self, rows: Iterable[Sequence[int]]) -> list[tuple[int, ...]]:
        """Those of the rows whose states are not kept, each once."""
        return list(dict.fromkeys(key for row in rows if (key := tuple(row)) not in self.kept))

    def keep(self, row: tuple[int, ...], states: Tensor) -> None:
        """Keep the states of a row, as long as there is room."""
        size = states.numel() * states.element_size()
        if self.bytes_kept + size <= MOST_BYTES:
            self.kept[row] = states.clone()
            self.bytes_kept += size


def padded_states(states: Sequence[Tensor], length: int) -> Tensor:
    """States of rows with zeros before them, (n, length, hidden)."""
    padded = states[0].new_zeros(len(states), length, states[0].shape[1])
    for row, own in zip(padded, states, strict=True):
        row[length - len(own) :] = own
    return padded
