"""Encoder-decoders as bases: the encoder reads the prompt, the decoder predicts the completion."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from loragen.bases.base import Base, ObjectiveName
from loragen.bases.decoder_steps import Step
from loragen.bases.language_model import LanguageModel
from loragen.bases.predictions import Predictions
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
        outputs = self.outputs(examples.completions, max_length=max_length)
        if self._around.is_chat:
            return self.inputs(examples, max_length=max_length), outputs
        room = self._room(max_length) - 1
        return tuple([*row[-room:], *self._last] for row in self._texts(examples.texts)), outputs

    def keeping_below(self, sites: Iterable[str]) -> Base:
        """The same base, of which decoders alone keep anything."""
        return self

    def predicted(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> Predictions:
        """Predictions of the completions of one batch after their prompts."""
        read, lengths = padded_rows(tokens_of(prompts), self._padding)
        mask = torch.arange(read.shape[1]) < lengths[:, None]
        written, sizes = padded_rows(completions, self._padding)
        counted = (torch.arange(written.shape[1]) < sizes[:, None]).to(self.device)
        written = written.to(self.device)
        logits: Tensor = self.model(
            input_ids=read.to(self.device),
            attention_mask=mask.to(self.device),
            labels=written.masked_fill(~counted, -100),
        ).logits
        return Predictions(logits, written, counted)

    @property
    def goes_on(self) -> bool:
        """True: what the encoder has read serves all that the decoder writes."""
        return True

    def begin(self, prompts: Sequence[Input]) -> Step:
        """Encode a batch of prompts, and let the decoder begin."""
        read, lengths = padded_rows(tokens_of(prompts), self._padding)
        mask = (torch.arange(read.shape[1]) < lengths[:, None]).to(self.device)
        encoded = self.body(input_ids=read.to(self.device), attention_mask=mask).last_hidden_state
        starts = torch.full((len(read), 1), self._start, device=self.device)
        out = self.model(encoder_outputs=(encoded,), attention_mask=mask, decoder_input_ids=starts, use_cache=True)
        summed = (encoded.float() * mask[..., None]).sum(1)
        return Step(out.logits, out.past_key_values, mask, lengths.to(self.device), summed, encoded)

    def follow(self, step: Step, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each token of rows of one length, (n, length, vocabulary); uses the step's cache up."""
        logits: Tensor = self.model(
            encoder_outputs=(step.encoded,),
            attention_mask=step.mask,
            decoder_input_ids=torch.tensor([list(row) for row in rows], device=self.device),
            past_key_values=step.cache,
            use_cache=True,
        ).logits
        return logits

    @property
    def _start(self) -> int:
        """Token that the decoder begins with."""
        start: int = self.model.config.decoder_start_token_id  # type: ignore[union-attr, assignment]
        return start

    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> Tensor:
        ids, lengths = padded_rows(rows, self._padding)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return self._generate(ids, mask, max_new_tokens, **options)
