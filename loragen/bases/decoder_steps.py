"""Rows of tokens read by a decoder: what rows have in common once for all of them, and logits where they are wanted."""

import inspect
import math
from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.bases.lower_layers import LowerLayers, padded_states
from loragen.bases.tokenised import like_lengths, padded_rows

_LEAST_SHARED = 8
"""Tokens that reading a common beginning apart must save, over all rows of a batch."""
_PASS = 4e9
"""Parameters times tokens that a processor reads in the time that one more pass takes, about."""


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


def _joined(steps: Sequence[Step], places: Sequence[int]) -> Step:
    """Steps of some rows each, at these places among all rows, as one; there is nothing to go on from."""
    back = torch.tensor(places).argsort()

    def stacked(parts: Sequence[Tensor], *rest: int) -> Tensor:
        longest = max(part.shape[1] for part in parts)
        return torch.cat([F.pad(part, (*rest, longest - part.shape[1], 0)) for part in parts])[back]

    logits, mask = stacked([step.logits for step in steps], 0, 0), stacked([step.mask for step in steps])
    lengths, summed = (torch.cat([getattr(step, name) for step in steps])[back] for name in ("lengths", "summed"))
    return Step(logits, None, mask, lengths, summed)


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

        Rows of like length are read together, the others apart, unless something is to go on from them.

        Args:
            rows: token ids, of any lengths above ``shared``.
            keep: of how many last tokens logits are wanted.
            shared: see `common_beginning`.
            remember: keep keys and values, to go on from; of all layers, so kept states are of no use then.
        """
        states = None if self.lower is None or remember else self._below(self.lower, rows)
        begun = None
        if shared:
            first = None if states is None else [states[0][:shared]]
            begun = self._read(None, [rows[0][:shared]], keep=1, remember=True, states=first)
        groups = [list(range(len(rows)))] if remember else self._groups(rows)
        steps = [
            self._read(
                None if begun is None else self._repeated(begun, len(group)),
                [rows[i][shared:] for i in group],
                keep=keep,
                remember=remember,
                states=None if states is None else [states[i][shared:] for i in group],
            )
            for group in groups
        ]
        return steps[0] if remember else _joined(steps, [i for group in groups for i in group])

    @cached_property
    def _a_pass(self) -> float:
        """Tokens that are read in the time that one more pass takes; other devices than processors want few passes."""
        parameters = sum(part.numel() for part in self.body.parameters())
        return _PASS / parameters if next(self.body.parameters()).device.type == "cpu" else math.inf

    def _groups(self, rows: Sequence[Sequence[int]]) -> list[list[int]]:
        """Places of the rows that are read together."""
        return like_lengths([len(row) for row in rows], self._a_pass)

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
        shared, states = common_beginning(rows, min(map(len, rows)) - 1), dict[int, Tensor]()
        with lower.alone() as seen:
            begun, beginning = self._begun_below(lower, tuple(rows[0][:shared]), seen) if shared else (None, [])
            for group in self._groups(rows):
                again = None if begun is None else self._repeated(begun, len(group))
                self._read(again, [rows[i][shared:] for i in group], keep=1, remember=begun is not None)
                for i, own in zip(group, seen.pop(), strict=True):
                    states[i] = torch.cat([*beginning, own[len(own) + shared - len(rows[i]) :]])
        return [states[i] for i in range(len(rows))]

    def _begun_below(
        self, lower: LowerLayers, shared: tuple[int, ...], seen: list[Tensor]
    ) -> tuple[Step, list[Tensor]]:
        """What rows begin with, read by the lower layers alone, and its states; kept, as templates come again."""
        if shared not in lower.beginnings:
            step = self._read(None, [shared], keep=1, remember=True)
            lower.begin(shared, (step, [seen.pop()[0]]))
        begun: tuple[Step, list[Tensor]] = lower.beginnings[shared]
        return begun

    @staticmethod
    def _repeated(begun: Step, times: int) -> Step:
        """A step of one row as one of several; the one row's stays as it is.

        Nothing is copied that gradients go through: what a cache holds is replaced, not written over.
        """
        cache = copy(begun.cache)
        cache.layers = [copy(layer) for layer in cache.layers]
        cache.batch_repeat_interleave(times)
        return replace(begun, cache=cache, mask=begun.mask.expand(times, -1), lengths=begun.lengths.expand(times))

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
