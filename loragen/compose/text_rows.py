"""Which tokens of a batch are of which text: gates that are computed from a whole text need to know.

A batch is padded, with a mask, so that the inputs of sites are (n, longest, in); or its texts are laid end to end in
one row, (1, tokens, in), where positions begin anew with each text.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from loragen.bases.base import Base
from loragen.bases.linear_sites import updates_are_left_out, without_updates
from loragen.bases.text_encoder import LabelTextEncoder
from loragen.errors import AdapterError

Router = Callable[[Tensor, Tensor], Tensor]
"""From hidden states (n, longest, hidden) and the mask of their tokens (n, longest) to weights (n, experts)."""


@final
@dataclass(frozen=True, eq=False)
class TextRows:
    """The texts of one batch."""

    mask: Tensor
    """True where a text has a token, (n, longest)."""
    is_end_to_end: bool = False
    """The tokens of all texts stand in one row, without padding; else a row a text."""
    weights: Tensor | None = None
    """What a router gave each text, (n, experts)."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "TextRows":
        """Those that a model is called with: its ids, and a mask or positions where it is given such."""
        ids, mask, positions = (options.get(name) for name in ("input_ids", "attention_mask", "position_ids"))
        assert ids is not None, "a text encoder is called with input_ids"
        if mask is not None:
            return cls(mask.bool())
        if positions is None or len(ids) != 1:
            return cls(torch.ones_like(ids, dtype=torch.bool))
        begins = (positions[0] == positions[0].min()).nonzero().flatten()
        ends = torch.cat([begins[1:], begins.new_tensor([ids.shape[1]])])
        lengths = ends - begins
        return cls(torch.arange(int(lengths.max()), device=ids.device) < lengths[:, None], is_end_to_end=True)

    def apart(self, x: Tensor) -> Tensor:
        """Values of tokens as (n, longest, d), with zeros after each text where it was end to end."""
        if not self.is_end_to_end:
            return x
        placed = x.new_zeros(*self.mask.shape, x.shape[-1])
        return placed.masked_scatter(self.mask[..., None], x[0])

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the tokens of each text, (n, d), of values of tokens."""
        weights = self.mask.to(x)[..., None]
        return (self.apart(x) * weights).sum(1) / weights.sum(1)

    def to_tokens(self, values: Tensor) -> Tensor:
        """From values a text (n, k) to values a token, (1, tokens, k), or (n, 1, k) for rows of a text each."""
        if not self.is_end_to_end:
            return values[:, None]
        return values.repeat_interleave(self.mask.sum(1), dim=0)[None]


@final
class CurrentRows:
    """The texts of the batch that is being read."""

    def __init__(self) -> None:
        self._rows: TextRows | None = None

    def __call__(self) -> TextRows:
        """They themselves."""
        assert self._rows is not None, "no batch is being read"
        return self._rows

    def set(self, rows: TextRows) -> None:
        """Say that another batch is being read."""
        self._rows = rows


@contextmanager
def following(base: Base, current: CurrentRows, router: Router | None = None) -> Iterator[None]:
    """Keep ``current`` up to date with the batches that a text encoder reads while the block runs.

    With a router, the bare base reads each batch first, and the router weighs the experts by what it gives.

    Raises:
        AdapterError: the base is no text encoder.
    """
    if not isinstance(base, LabelTextEncoder):
        raise AdapterError(
            f"This composition weighs its experts by whole texts, which wants a text encoder; {base.name} has the "
            f"objective {base.objective!r}. Compose by a method that works token by token, such as mora or arrow."
        )

    def follow(body: nn.Module, args: Any, options: dict[str, Any]) -> None:
        if updates_are_left_out():
            return
        rows = TextRows.of(options)
        if router is not None:
            with without_updates(), torch.no_grad():
                hidden = body(*args, **options).last_hidden_state
            rows = replace(rows, weights=router(rows.apart(hidden).float(), rows.mask))
        current.set(rows)

    handle = base.body.register_forward_pre_hook(follow, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
