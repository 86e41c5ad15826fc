"""Texts of a batch laid end to end in one row of tokens, so that no module computes anything for padding.

Attention alone wants the texts apart: around it they are padded. Everything else in an encoder works token by token.
It is what is called unpadding of a batch (Portes et al. 2023, MosaicBERT), here for models of transformers as they are,
through its interface for attention functions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.bases.linear_sites import updates_read_rows

_NAME = "loragen_end_to_end"
_AFTER_PADDING = ("roberta", "xlm-roberta")
"""Models whose first position comes after that of the padding token."""
_KNOWN = ("bert", *_AFTER_PADDING)
"""Types of models that take positions as an argument and learn a vector for each."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the tokens of a batch of texts stand, end to end and padded."""

    lengths: Tensor
    """Tokens of each text, (n,)."""
    padded: Tensor
    """For each token its place among padded texts that follow one another, (tokens,)."""
    positions: Tensor
    """Of each token in its text, (tokens,)."""
    mask: Tensor
    """True where a padded text has a token, (n, longest)."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Self:
        """The layout of texts of these lengths."""
        counts = torch.tensor(lengths)
        longest = max(lengths)
        starts = torch.tensor([0, *accumulate(lengths)][:-1])
        positions = torch.arange(sum(lengths)) - starts.repeat_interleave(counts)
        padded = positions + (torch.arange(len(lengths)) * longest).repeat_interleave(counts)
        mask = torch.arange(longest) < counts[:, None]
        return cls(*(each.to(device) for each in (counts, padded, positions, mask)))

    def apart(self, values: Tensor) -> Tensor:
        """From (tokens, d) to (n, longest, d), with zeros after each text."""
        if len(values) == self.mask.numel():  # all are of one length
            return values.view(*self.mask.shape, -1)
        placed: Tensor = _Placed.apply(values, self.padded, self.mask.numel())  # type: ignore[no-untyped-call]
        return placed.view(*self.mask.shape, -1)

    def together(self, values: Tensor) -> Tensor:
        """From (n, longest, d) to (tokens, d); what stands after a text is dropped."""
        flat = values.reshape(self.mask.numel(), -1)
        if len(self.padded) == len(flat):
            return flat
        taken: Tensor = _Taken.apply(flat, self.padded)  # type: ignore[no-untyped-call]
        return taken

    def pooled(self, values: Tensor, pooling: Literal["mean", "last", "cls"]) -> Tensor:
        """Mean over the tokens of each text, or its first or last one, from (tokens, d) to (n, d)."""
        if pooling == "mean":
            sums = self.apart(values).sum(1)
            return sums / self.lengths[:, None].to(sums)
        ends = self.lengths.cumsum(0)
        return values[ends - 1] if pooling == "last" else values[ends - self.lengths]


class _Placed(torch.autograd.Function):
    """Rows put at places among zeros; each place is given once."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor, size: int) -> Tensor:
        ctx.save_for_backward(places)
        return values.new_zeros(size, values.shape[1]).index_copy_(0, places, values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return gradients[0].index_select(0, places), None, None


class _Taken(torch.autograd.Function):
    """Rows taken from places; each place is given once, which the gradient of torch's own indexing cannot know."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(values)
        return values.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (places,) = ctx.saved_tensors
        gradient = gradients[0]
        return gradient.new_zeros(ctx.size, gradient.shape[1]).index_copy_(0, places, gradient), None


_LAYOUT: ContextVar[Layout | None] = ContextVar("layout of the batch", default=None)


def layout_in_use() -> Layout | None:
    """That of the batch which a model is reading end to end; `None` where rows are padded."""
    return _LAYOUT.get()


def can_read(body: nn.Module) -> bool:
    """True for models that texts can be put to end to end, under the updates in use."""
    config: Any = body.config
    return (
        config.model_type in _KNOWN
        and not updates_read_rows()
        and not getattr(config, "is_decoder", False)
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and config._attn_implementation == "sdpa"
    )


def read(body: nn.Module, rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Layout]:
    """Last hidden states of the tokens of a batch of texts, (tokens, hidden), and where each token stands."""
    config: Any = body.config
    layout = Layout.of([len(row) for row in rows], device)
    ids = torch.tensor([token for row in rows for token in row], device=device)
    positions = layout.positions + (config.pad_token_id + 1 if config.model_type in _AFTER_PADDING else 0)
    with _attending_apart(config, layout):
        hidden: Tensor = body(input_ids=ids[None], position_ids=positions[None]).last_hidden_state
    return hidden[0], layout


@contextmanager
def _attending_apart(config: Any, layout: Layout) -> Iterator[None]:
    _register()
    before, token = config._attn_implementation, _LAYOUT.set(layout)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
        _LAYOUT.reset(token)


@cache
def _register() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attend)


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float = 0.0, **_: Any
) -> tuple[Tensor, None]:
    """Attention within each text.

    Query, key and value are (1, heads, tokens, d); what is returned is (1, tokens, heads, d).
    """
    layout = _LAYOUT.get()
    assert layout is not None
    heads = query.shape[1]
    q, k, v = (
        layout.apart(one[0].transpose(0, 1).flatten(1)).view(*layout.mask.shape, heads, -1).transpose(1, 2)
        for one in (query, key, value)
    )  # (n, heads, longest, d)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.mask[:, None, None, :], dropout_p=dropout)
    rows = layout.together(attended.transpose(1, 2).flatten(2))
    return rows.view(1, len(rows), heads, -1), None
