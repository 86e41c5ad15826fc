"""Encoder-decoders as bases: the encoder reads the prompt, the decoder predicts the completion."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, nn

from loragen.bases.base import ObjectiveName
from loragen.bases.language_model import LanguageModel, cross_entropies
from loragen.bases.tokenised import Input, padded_rows, tokens_of
from loragen.errors import TaskError
from loragen.tasks.examples import Examples


@final
@dataclass(frozen=True)
class Seq2SeqLM(LanguageModel):
    """An encoder-decoder, such as T5: the encoder reads the prompt, the decoder predicts the completion."""

    objective: ClassVar[ObjectiveName] = "seq2seq"
    task_type: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    model_class: ClassVar[str] = "AutoModelForSeq2SeqLM"

    @property
    def body(self) -> nn.Module:
        """The encoder."""
        body = self.model.get_encoder()  # type: ignore[operator]
        assert isinstance(body, nn.Module)
        return body

    @property
    def _first(self) -> list[int]:
        return []

    @property
    def _tail(self) -> list[int]:
        return self._last

    def open_ended(self, examples: Examples, *, max_length: int) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Prompts and completions.

        Raises:
            TaskError: the texts have no completions.
        """
        if examples.completions is None:
            raise TaskError(
                "The task has neither labels nor completions, which an encoder-decoder learns to write; name the "
                "column of the completions under 'source', or use a base with the objective 'causal_lm'."
            )
        inputs = tuple([*row[-(max_length - 1) :], *self._last] for row in self._pieces(examples.texts))
        return inputs, self.outputs(examples.completions, max_length=max_length)

    def surprise(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of completions, (n,), and over how many tokens, (n,)."""
        read, lengths = padded_rows(tokens_of(prompts), self._padding)
        mask = torch.arange(read.shape[1]) < lengths[:, None]
        written, sizes = padded_rows(completions, self._padding)
        counted = (torch.arange(written.shape[1]) < sizes[:, None]).to(self.device)
        written = written.to(self.device)
        logits = self.model(
            input_ids=read.to(self.device),
            attention_mask=mask.to(self.device),
            labels=written.masked_fill(~counted, -100),
        ).logits
        losses = cross_entropies(logits, written) * counted
        return losses.sum(1), counted.sum(1)

    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int) -> Tensor:
        ids, lengths = padded_rows(rows, self._padding)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return self._generate(ids, mask, max_new_tokens)
