"""Which tokens of a batch are of which text: gates that are computed from a whole text need to know.

Under updates that are functions of their input, as these are, a batch is padded, a row a text (`bases.end_to_end`).
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
    weights: Tensor | None = None
    """What a router gave each text, (n, experts)."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "TextRows":
        """Those that a model is called with: its ids, and a mask where it is given one."""
        ids, mask = options.get("input_ids"), options.get("attention_mask")
        assert ids is not None, "a text encoder is called with input_ids"
        return cls(torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool())

    def mean(self, x: Tensor) -> Tensor:
        """The mean over the tokens of each text, (n, d), of values of tokens (n, longest, d)."""
        weights = self.mask.to(x)[..., None]
        return (x * weights).sum(1) / weights.sum(1)


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
            rows = replace(rows, weights=router(hidden.float(), rows.mask))
        current.set(rows)

    handle = base.body.register_forward_pre_hook(follow, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
