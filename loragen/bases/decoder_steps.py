"""Rows of tokens read by a decoder: what rows have in common once for all of them, and logits where they are wanted."""

import inspect
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, nn

from loragen.bases.lower_layers import LowerLayers, padded_states
from loragen.bases.tokenised import padded_rows

_LEAST_SHARED = 8
"""Tokens that reading a common beginning apart must save, over all rows of a batch."""


@final
@dataclass(frozen=True)
class Step:
    """What a decoder has read of n rows, and what it says at their ends."""

    logits: Tensor
    """After each of the last tokens, (n, kept, vocabulary); rows end together."""
    cache: Any
    """Keys and values of all tokens read, by which transformers goes on; `None` where none was asked for."""
    mask: Tensor
    """Which of the cache's places are tokens of a row, bool (n, places)."""
    lengths: Tensor
    """Tokens read of each row, (n,)."""
    summed: Tensor
    """Last-layer hidden states, summed over the tokens read, float32 (n, hidden)."""
    encoded: Tensor | None = None
    """Hidden states of an encoder-decoder's prompts, (n, places, hidden)."""

    @property
    def mean(self) -> Tensor:
        """Mean of the hidden states, (n, hidden)."""
        return self.summed / self.lengths[:, None].to(self.summed)

    def repeated(self, times: int) -> "Step":
        """The same with every row ``times`` times, one after the other, but for the logits; this one stays as it is."""
        cache = deepcopy(self.cache)
        cache.batch_repeat_interleave(times)
        mask, lengths, summed = (part.repeat_interleave(times, 0) for part in (self.mask, self.lengths, self.summed))
        encoded = None if self.encoded is None else self.encoded.repeat_interleave(times, 0)
        return Step(self.logits, cache, mask, lengths, summed, encoded)


def can_go_on(model: nn.Module) -> bool:
    """True if a decoder goes on after what it has read, at places that it is told.

    Those that count places by themselves (ALiBi, as BLOOM has it) or keep a state of another kind (Mamba) do not.
    """
    wanted = {"position_ids", "past_key_values", "logits_to_keep", "attention_mask"}
    config: Any = model.config
    has_alibi = getattr(config, "alibi", False) or config.model_type in ("bloom", "mpt")
    is_stateful = getattr(model, "_is_stateful", False)
    return not has_alibi and not is_stateful and wanted <= inspect.signature(model.forward).parameters.keys()


def common_beginning(rows: Sequence[Sequence[int]], most: int) -> int:
    """How many tokens all rows begin with, at most ``most``; 0 where it is not worth reading them apart."""
    shared = 0
    while shared < most and all(row[shared] == rows[0][shared] for row in rows):
        shared += 1
    return shared if shared * (len(rows) - 1) >= _LEAST_SHARED else 0


@final
@dataclass(frozen=True)
class DecoderSteps:
    """A decoder, read step by step; differentiable in the factors in use."""

    model: nn.Module
    body: nn.Module
    """The part that gives hidden states."""
    padding: int
    lower: LowerLayers | None = None
    """Layers that no factors in use touch; what they give is kept."""

    def read(self, rows: Sequence[Sequence[int]], *, keep: int, shared: int = 0, remember: bool = False) -> Step:
        """Read rows from their beginnings, padded on the left; the first ``shared`` tokens, which all have, once.

        Args:
            rows: token ids, of any lengths above ``shared``.
            keep: of how many last tokens logits are wanted.
            shared: see `common_beginning`.
            remember: keep keys and values, to go on from; of all layers, so kept states are of no use then.
        """
        states = None if self.lower is None or remember else self._below(self.lower, rows)
        if not shared:
            return self._read(None, rows, keep=keep, remember=remember, states=states)
        begun = self._read(
            None, [rows[0][:shared]], keep=1, remember=True, states=None if states is None else [states[0][:shared]]
        )
        begun = self._repeated(begun, len(rows))
        rest = None if states is None else [own[shared:] for own in states]
        return self._read(begun, [row[shared:] for row in rows], keep=keep, remember=remember, states=rest)

    @torch.no_grad()
    def _below(self, lower: LowerLayers, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """States above the lower layers, (length, hidden) a row, of rows from their beginnings."""
        unknown = lower.unknown(rows)
        found = dict(zip(unknown, self._computed_below(lower, unknown), strict=True)) if unknown else {}
        for row, own in found.items():
            lower.keep(row, own)
        return [found[key] if (key := tuple(row)) in found else lower.kept[key] for row in rows]

    def _computed_below(self, lower: LowerLayers, rows: Sequence[Sequence[int]]) -> list[Tensor]:
        """The same, computed; what all rows begin with once."""
        shared = common_beginning(rows, min(map(len, rows)) - 1)
        with lower.alone() as states:
            begun = None
            if shared:
                begun = self._repeated(self._read(None, [rows[0][:shared]], keep=1, remember=True), len(rows))
            self._read(begun, [row[shared:] for row in rows], keep=1, remember=begun is not None)
        parts = [own[len(own) + shared - len(row) :] for row, own in zip(rows, states[-1], strict=True)]
        return [torch.cat([states[0][0], part]) for part in parts] if shared else parts

    @staticmethod
    def _repeated(begun: Step, times: int) -> Step:
        """A step of one row as one of several, whose cache is used up."""
        begun.cache.batch_repeat_interleave(times)
        return replace(begun, mask=begun.mask.expand(times, -1), lengths=begun.lengths.expand(times))

    def go_on(self, step: Step, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each token of rows of one length that follow what was read, (n, length, vocabulary).

        The cache of ``step`` is used up.
        """
        return self._read(step, rows, keep=len(rows[0]), remember=True).logits

    def _read(
        self,
        past: Step | None,
        rows: Sequence[Sequence[int]],
        *,
        keep: int,
        remember: bool,
        states: Sequence[Tensor] | None = None,
    ) -> Step:
        device = next(self.model.parameters()).device
        backwards, lengths = padded_rows([row[::-1] for row in rows], self.padding)
        ids, lengths = backwards.flip(1).to(device), lengths.to(device)
        own = torch.arange(ids.shape[1], device=device) >= ids.shape[1] - lengths[:, None]
        before = torch.zeros_like(lengths) if past is None else past.lengths
        places = (before[:, None] + own.cumsum(1) - 1).clamp(min=0)
        mask = own if past is None else torch.cat([past.mask, own], 1)
        seen: list[Tensor] = []
        hooks = [self.body.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))]
        if (head := self.model.get_output_embeddings()) is not None:  # type: ignore[operator]
            # A slice of states is multiplied row by row unless it lies in one piece.
            hooks.append(head.register_forward_pre_hook(lambda _m, inputs: (inputs[0].contiguous(), *inputs[1:])))
        try:
            out = self._forward(
                None if not states else padded_states(states, ids.shape[1]),
                input_ids=ids,
                attention_mask=mask.long(),
                position_ids=places,
                past_key_values=None if past is None else past.cache,
                use_cache=remember or past is not None,
                logits_to_keep=keep,
            )
        finally:
            for hook in hooks:
                hook.remove()
        summed = (seen[0].float() * own[..., None]).sum(1)
        summed = summed if past is None else past.summed + summed
        return Step(out.logits, out.past_key_values if remember else None, mask, before + lengths, summed)

    def _forward(self, states: Tensor | None, **inputs: Any) -> Any:
        if states is None or self.lower is None:
            return self.model(**inputs)
        with self.lower.given(states):
            return self.model(**inputs)
