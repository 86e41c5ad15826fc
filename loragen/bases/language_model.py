"""Language models as bases, trained and scored by the likelihood of completions after their prompts.

The completion of a labelled example is the name of its label; of an open one its own, or the text itself where there is
no prompt. Only the completion's tokens count in the loss, its end among them.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from loragen.bases.base import Base, Pooling, with_contrast
from loragen.bases.decoder_steps import Step
from loragen.bases.label_reading import read_labels
from loragen.bases.losses import contrast_loss
from loragen.bases.predictions import Predictions
from loragen.bases.scores import AnyScores, LanguageScores, scores_of
from loragen.bases.tokenised import Input, Readout, TaskData, tokens_of
from loragen.bases.wording import PROMPT, Around, Wording, around, chat_pieces
from loragen.errors import TaskError
from loragen.tasks.examples import Examples


@dataclass(frozen=True)
class LanguageModel(Base):
    """A model that writes text after a prompt."""

    prompt: Wording = PROMPT
    """Template around the texts of labelled examples, in which ``{text}`` stands for the text, or turns of a chat."""
    told: str | None = None
    """Description of the task, where prompts tell it."""
    writes_text: ClassVar[bool] = True

    def __post_init__(self) -> None:
        assert self._around  # a wording that does not fit is refused here

    @cached_property
    def _around(self) -> Around:
        return around(self.prompt, self.tokenizer, self.name, self.told)

    @classmethod
    def _own_parts(cls, name: str, folder: Path, model: Any, prompt: Wording) -> dict[str, Any]:
        model.config.use_cache = False  # scores read every token once; generation switches its own cache on
        return {"prompt": prompt}

    # --- inputs and outputs of a task ---

    @property
    @abstractmethod
    def _first(self) -> list[int]:
        """Tokens that a prompt begins with."""

    @property
    @abstractmethod
    def _tail(self) -> list[int]:
        """Tokens that a prompt ends with."""

    @property
    def _last(self) -> list[int]:
        if self._around.last is not None:
            return [self.tokenizer.convert_tokens_to_ids(self._around.last)]
        return [self.tokenizer.eos_token_id] if self._has_ends else []

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        end = self.tokenizer.eos_token_id
        return frozenset(self._last if end is None else [*self._last, end])

    @property
    def _has_ends(self) -> bool:
        return self.tokenizer.eos_token_id is not None

    @property
    def _padding(self) -> int:
        token = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id or 0 if token is None else token

    def inputs(self, examples: Examples, *, max_length: int) -> tuple[Input, ...]:
        """Labelled texts within the template, as token ids; a text that is too long loses its end."""
        begin, end = self._begin_and_end
        pairs = examples.pairs or (None,) * len(examples)
        shown = [text if pair is None else f"{text}\n{pair}" for text, pair in zip(examples.texts, pairs, strict=True)]
        room = max(1, max_length if self._around.is_chat else self._room(max_length) - len(begin) - len(end))
        return tuple([*begin, *row[:room], *end] for row in self._texts(shown))

    @cached_property
    def _begin_and_end(self) -> tuple[list[int], list[int]]:
        """Tokens around a text."""
        begin, end = self._pieces([self._around.begin])[0], self._pieces([self._around.end])[0]
        return (begin, end) if self._around.is_chat else ([*self._first, *begin], [*end, *self._tail])

    def _room(self, max_length: int) -> int:
        """Most tokens of a text and what a plain prompt puts around it; the description comes on top."""
        return max_length + len(self._pieces([self._around.in_front])[0])

    def _texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts of a task, with what stands in front of them; in a chat its marks are plain words."""
        shown = [f"{self._around.in_front}{text}" for text in texts]
        return self._pieces(shown, split_special_tokens=self._around.is_chat)

    def _prepare_told(self, examples: Examples, instruction: str, *, max_length: int) -> TaskData:
        return replace(self, told=instruction).prepare(examples, max_length=max_length)

    def outputs(self, texts: Sequence[str], *, max_length: int) -> tuple[Sequence[int], ...]:
        """Labels or completions as token ids, each with its end where there is room for it."""
        # After what comes before: by themselves, some tokenizers put a space of their own before a text.
        lead = self._around.lead
        head, *rows = self._pieces([lead.rstrip(" "), *(f"{lead}{text.strip()}" for text in texts)])
        size = len(head) if all(row[: len(head)] == head for row in rows) else 0
        if not size and self._around.is_chat:
            rows = self._pieces([text.strip() for text in texts])
        return tuple(self._ended(row[size:], max_length) for row in rows)

    def _ended(self, row: list[int], room: int) -> list[int]:
        """A text with its end token; one that is too long loses its last tokens, and with them its end."""
        whole = [*row, *self._last]
        return whole if len(whole) <= room else row[:room]

    def _pieces(self, texts: Sequence[str], **options: bool) -> list[list[int]]:
        """Token ids of pieces of texts, without a beginning or end of their own."""
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False, **options)
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def prompts(self, texts: Sequence[str]) -> tuple[Input, ...]:
        """Prompts as they are or, for bases that chat, as the user's turn, as token ids."""
        begin, end = self._begin_and_end if self._around.is_chat else (self._first, self._tail)
        return tuple([*begin, *row, *end] for row in self._texts(texts))

    def chat(self, turns: Sequence[tuple[str, str]]) -> Input:
        """Turns of a chat, each a role and what is said, up to where the assistant's answer begins, as token ids.

        Marks of the template are plain words in what is said.

        Raises:
            ConfigError: the base has no template for chats, or it cannot be filled in with these turns.
        """
        pieces = chat_pieces(self.tokenizer, self.name, turns)
        rows = (self._pieces([piece], split_special_tokens=is_said)[0] for piece, is_said in pieces if piece)
        return [token for row in rows for token in row]

    def texts_of(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Token ids as texts, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
        return texts

    def states(self, ids: Sequence[Input], *, pooling: Pooling = "mean") -> Tensor:
        """Last-layer hidden states of one batch, float32 (n, hidden): their mean over the tokens, or the last token's.

        Differentiable in the factors in use.
        """
        return self._text_states(ids, pooling)

    # --- likelihoods ---

    @abstractmethod
    def predicted(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> Predictions:
        """Predictions of the completions of one batch after their prompts.

        Differentiable in the factors in use. With an empty prompt the first token is not predicted.
        """

    def surprise(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood in nats of completions after their prompts, (n,), and over how many tokens, (n,).

        One batch; differentiable in the factors in use. With an empty prompt the first token is not predicted.
        """
        predicted = self.predicted(prompts, completions)
        return predicted.losses, predicted.counts

    @torch.inference_mode()
    def surprises(
        self, prompts: Sequence[Input], completions: Sequence[Sequence[int]], *, batch_size: int = 64
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`surprise` of any number of completions, in their order, and which are the likeliest, (n,), on the CPU.

        Batches hold rows of like length.
        """
        lengths = [len(p) + len(c) for p, c in zip(tokens_of(prompts), completions, strict=True)]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        found = []
        for start in range(0, len(order), batch_size):
            at = order[start : start + batch_size]
            one = self.predicted([prompts[i] for i in at], [completions[i] for i in at])
            found.append(torch.stack([one.losses, one.counts, one.likeliest.float()]).cpu())
        losses, counts, likeliest = torch.cat(found, dim=1)[:, torch.tensor(order).argsort()]
        return losses, counts, likeliest.bool()

    # --- a task ---

    def losses(self, batch: TaskData, *, contrast_weight: float) -> dict[str, Tensor]:
        """Mean surprise over the completions' tokens; with weight, supervised contrast among labelled prompts."""
        losses, counts = self.surprise(batch.ids, batch.own_outputs())
        parts = {"completion": losses.sum() / counts.sum()}
        if not contrast_weight:
            return {"loss": parts["completion"]} | parts
        self._refuse_open(batch)
        texts = self.embed(batch.ids)
        return with_contrast(parts, texts, batch.targets.to(texts.device), contrast_weight)

    def _refuse_open(self, data: TaskData) -> None:
        if data.is_open:
            raise TaskError("Contrast wants classes, and these examples have none; set 'contrast_weight: 0'.")

    @torch.inference_mode()
    def held_out_loss(self, data: TaskData, *, contrast_weight: float) -> float:
        """The same loss over all of ``data``."""
        losses, counts, _ = self.surprises(data.ids, data.own_outputs())
        loss = float(losses.sum() / counts.sum())
        if contrast_weight:
            self._refuse_open(data)
            loss += contrast_weight * float(contrast_loss(self.encode(data.ids), data.targets.cpu()))
        return loss

    @property
    @abstractmethod
    def goes_on(self) -> bool:
        """True if the model goes on from what it has read, so that prompts need to be read once."""

    @abstractmethod
    def begin(self, prompts: Sequence[Input]) -> Step:
        """Read a batch of prompts; one row of logits a prompt, and states of the prompts."""

    @abstractmethod
    def follow(self, step: Step, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits after each token of rows of one length, (n, length, vocabulary); uses the step's cache up."""

    def _read(self, data: TaskData) -> Readout:
        """Mean-pooled embeddings of the prompts, and the log-likelihood of each label after each of them."""
        if self.goes_on and all(data.ids):
            return Readout(*read_labels(self, data.ids, data.lengths, data.label_ids), data.targets)
        labels = len(data.label_ids)
        prompts = [row for row in data.ids for _ in range(labels)]
        losses, _, _ = self.surprises(prompts, list(data.label_ids) * len(data))
        return Readout(self.encode(data.ids), -losses.reshape(len(data), labels), data.targets)

    def _score(self, data: TaskData) -> AnyScores:
        if not data.is_open:
            return scores_of(self._read(data))
        losses, counts, likeliest = self.surprises(data.ids, data.label_ids)
        nats = float(losses.sum())
        size = sum(len(text.encode()) for text in self.texts_of(data.label_ids))
        return LanguageScores(
            perplexity=math.exp(nats / float(counts.sum())),
            bits_per_byte=nats / math.log(2) / max(size, 1),
            exact_match=float(likeliest.double().mean()) if self._has_prompts(data) else None,
        )

    def _has_prompts(self, data: TaskData) -> bool:
        """True if open data has prompts, and not plain texts alone."""
        return any(list(row) != self._first for row in tokens_of(data.ids))

    # --- completions ---

    @torch.inference_mode()
    def continued(self, prompts: Sequence[Input], *, max_new_tokens: int, batch_size: int = 16) -> list[str]:
        """The most likely continuation of each prompt, token by token, up to its end, without spaces around it."""
        rows, found = tokens_of(prompts), []
        for start in range(0, len(rows), batch_size):
            made = self._greedy(rows[start : start + batch_size], max_new_tokens)
            found += [text.strip() for text in self.texts_of(made.tolist())]
        return found

    @torch.inference_mode()
    def write(self, prompts: Sequence[Input], *, max_new_tokens: int, choose: Any, watch: Any) -> None:
        """Write after one batch of prompts, token by token.

        Args:
            prompts: as token ids.
            max_new_tokens: most tokens of any of them.
            choose: a logits processor of transformers: the likeliest token of what it gives is written.
            watch: a stopping criterion of transformers, which sees every token.
        """
        self._greedy(tokens_of(prompts), max_new_tokens, logits_processor=[choose], stopping_criteria=[watch])

    @abstractmethod
    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int, **options: Any) -> Tensor:
        """Tokens written after each row, (n, up to max_new_tokens)."""

    def _generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int, **options: Any) -> Tensor:
        made: Tensor = self.model.generate(  # type: ignore[operator]
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self._padding,
            **options,
        )
        return made.cpu()


def with_wording(base: Base, wording: Wording) -> Base:
    """A base to which texts are put in these words; a language model alone makes a difference of them."""
    return replace(base, prompt=wording) if isinstance(base, LanguageModel) and wording != base.prompt else base
