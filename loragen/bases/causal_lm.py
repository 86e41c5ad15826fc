"""Decoders as bases: one row of tokens, the prompt and then its completion."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from loragen.bases.base import ObjectiveName
from loragen.bases.decoder_steps import DecoderSteps, Step, can_go_on, common_beginning
from loragen.bases.language_model import LanguageModel
from loragen.bases.lower_layers import LowerLayers
from loragen.bases.predictions import Predictions
from loragen.bases.tokenised import Input, padded_rows, tokens_of
from loragen.tasks.examples import Examples


@final
@dataclass(frozen=True)
class CausalLM(LanguageModel):
    """A decoder, such as Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX."""

    lower: LowerLayers | None = field(default=None, repr=False, compare=False)
    """Layers that no factors in use will touch; what they give is kept."""
    objective: ClassVar[ObjectiveName] = "causal_lm"
    task_type: ClassVar[str | None] = "CAUSAL_LM"
    model_class: ClassVar[str] = "AutoModelForCausalLM"

    @property
    def body(self) -> nn.Module:
        """The decoder without its head."""
        body = self.model.base_model
        assert isinstance(body, nn.Module)
        return body

    @property
    def _first(self) -> list[int]:
        """The beginning of a text; the end of the last one, for models that have no beginning."""
        token = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if token is None else token] if self._has_ends else []

    @property
    def _tail(self) -> list[int]:
        return []

    def open_ended(self, examples: Examples, *, max_length: int) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Prompts and completions; plain texts have no prompt but the beginning of a text.

        A prompt that is too long loses its beginning, a text its end.
        """
        if examples.completions is None:
            ends = tuple(self._ended(row, max_length) for row in self._pieces(examples.texts))
            return tuple(list(self._first) for _ in ends), ends
        outputs = self.outputs(examples.completions, max_length=max_length)
        if self._around.is_chat:
            return self.inputs(examples, max_length=max_length), outputs
        texts, whole = self._texts(examples.texts), self._room(max_length)
        rooms = (max(1, whole - len(output) - len(self._first)) for output in outputs)
        return tuple([*self._first, *row[-room:]] for row, room in zip(texts, rooms, strict=True)), outputs

    @cached_property
    def _steps(self) -> DecoderSteps:
        return DecoderSteps(self.model, self.body, self._padding, self.lower)

    @torch.no_grad()
    def keeping_below(self, sites: Iterable[str]) -> "CausalLM":
        """The same base, which computes what lies below all these sites once a text and keeps it.

        Models that do more between their layers than those of Llama's kind are told by trying, and stay as they are.
        """
        lower = LowerLayers.below(self.body, sites, self.model) if self.goes_on else None
        if lower is None:
            return self
        keeping = replace(self, lower=lower)
        prompts, completions = [[*range(3, 14), 3], [*range(3, 14)]], [[4, 5], [6, 7, 8]]
        wanted, _ = self.surprise(prompts, completions)
        try:
            tries = [keeping.surprise(prompts, completions)[0] for _ in range(2)]  # computed, then kept
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):  # whatever layers expect
            return self
        return keeping if all(torch.allclose(one, wanted, rtol=1e-3, atol=1e-3) for one in tries) else self

    @cached_property
    def goes_on(self) -> bool:
        """True if the model goes on from what it has read, so that prompts need to be read once."""
        return can_go_on(self.model)

    def predicted(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> Predictions:
        """Predictions of the completions of one batch after their prompts.

        Differentiable in the factors in use. With an empty prompt the first token is not predicted. What all prompts
        begin with is read once, and logits are made where they are counted; rows end together.
        """
        begins = tokens_of(prompts)
        rows = [[*prompt, *completion] for prompt, completion in zip(begins, completions, strict=True)]
        counts = torch.tensor([len(row) - max(len(begin), 1) for row, begin in zip(rows, begins, strict=True)])
        longest = int(counts.max())
        from_end = torch.arange(longest, 0, -1)
        targets = padded_rows([row[::-1] for row in rows], self._padding)[0].flip(1)[:, -longest:]
        counted = from_end <= counts[:, None]
        if self.goes_on:
            shared = common_beginning(rows, min(map(len, begins)) - 1)
            logits = self._steps.read(rows, keep=longest + 1, shared=shared).logits[:, -longest - 1 : -1]
        else:
            logits = self._logits_at(rows, from_end)
        return Predictions(logits, targets.to(logits.device), counted.to(logits.device))

    def _logits_at(self, rows: Sequence[Sequence[int]], from_end: Tensor) -> Tensor:
        """Logits that predict the tokens so far from the ends of rows, (n, places, vocabulary), by one full pass."""
        padded, lengths = padded_rows(rows, self._padding)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        logits: Tensor = self.model(input_ids=padded.to(self.device), attention_mask=mask.to(self.device)).logits
        places = (lengths[:, None] - from_end - 1).clamp(min=0)
        return logits[torch.arange(len(rows))[:, None], places]

    def begin(self, prompts: Sequence[Input]) -> Step:
        """Read a batch of prompts, what all of them begin with once."""
        rows = tokens_of(prompts)
        shared = common_beginning(rows, min(map(len, rows)) - 1)
        return self._steps.read(rows, keep=1, shared=shared, remember=True)

    def follow(self, step: Step, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each token of rows of one length, (n, length, vocabulary); uses the step's cache up."""
        return self._steps.go_on(step, rows)

    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> Tensor:
        """Tokens written after each row, (n, up to max_new_tokens)."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[self._padding] * (longest - len(row)) + list(row) for row in rows])  # padded on the left
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return self._generate(ids, mask, max_new_tokens, **options)[:, longest:]
