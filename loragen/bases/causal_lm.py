"""Decoders as bases: one row of tokens, the prompt and then its completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from loragen.bases.base import ObjectiveName
from loragen.bases.language_model import LanguageModel, cross_entropies
from loragen.bases.tokenised import Input, padded_rows, tokens_of
from loragen.tasks.examples import Examples


@final
@dataclass(frozen=True)
class CausalLM(LanguageModel):
    """A decoder, such as Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX."""

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
        texts = self._pieces(examples.texts)
        if examples.completions is None:
            ends = tuple(self._ended(row, max_length) for row in texts)
            return tuple(list(self._first) for _ in ends), ends
        outputs = self.outputs(examples.completions, max_length=max_length)
        rooms = (max(1, max_length - len(output) - len(self._first)) for output in outputs)
        return tuple([*self._first, *row[-room:]] for row, room in zip(texts, rooms, strict=True)), outputs

    def surprise(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood in nats of completions after their prompts, (n,), and over how many tokens, (n,).

        One batch; differentiable in the factors in use. With an empty prompt the first token is not predicted.
        """
        prompt_ids = tokens_of(prompts)
        rows = [[*prompt, *completion] for prompt, completion in zip(prompt_ids, completions, strict=True)]
        padded, lengths = padded_rows(rows, self._padding)
        begins = torch.tensor([max(len(prompt), 1) for prompt in prompt_ids])
        at = torch.arange(padded.shape[1])
        mask = at < lengths[:, None]
        logits = self.model(input_ids=padded.to(self.device), attention_mask=mask.to(self.device)).logits
        counted = (mask & (at >= begins[:, None]))[:, 1:].to(self.device)
        losses = cross_entropies(logits[:, :-1], padded[:, 1:].to(self.device)) * counted
        return losses.sum(1), counted.sum(1)

    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int) -> Tensor:
        """Tokens written after each row, (n, up to max_new_tokens)."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[self._padding] * (longest - len(row)) + list(row) for row in rows])  # padded on the left
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return self._generate(ids, mask, max_new_tokens)[:, longest:]
