"""Language models as bases: what they are trained and scored by is the likelihood of a completion after its prompt.

The completion of a labelled example is the name of its label; of an open one its own, or the text itself where there is
no prompt. Only the completion's tokens count in the loss, its end among them.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.backbone import Backbone, DeviceName, ObjectiveName, padded_rows, tokens_of
from loragen.errors import ConfigError, TaskError
from loragen.taskdata import Input, Readout, TaskData

if TYPE_CHECKING:
    from loragen.tasks import Examples

PROMPT = "{text}\nLabel:"
"""How a labelled text is put to a language model; its label follows after a space."""


@dataclass(frozen=True)
class CausalLM(Backbone):
    """A decoder, such as Llama, Qwen, Mistral, Gemma, GPT-2 or GPT-NeoX."""

    prompt: str = PROMPT
    """Template around the texts of labelled examples; ``{text}`` stands for the text."""
    objective: ClassVar[ObjectiveName] = "causal_lm"
    task_type: ClassVar[str | None] = "CAUSAL_LM"
    model_class: ClassVar[str] = "AutoModelForCausalLM"

    def __post_init__(self) -> None:
        if "{text}" not in self.prompt:
            raise ConfigError(f"The prompt template {self.prompt!r} has no {{text}} in it; say where the text goes.")

    @classmethod
    def load(
        cls, name: str, *, dtype: torch.dtype = torch.float32, device: DeviceName = "cpu", prompt: str = PROMPT
    ) -> Self:
        """Load a language model; see `Backbone.load`."""
        loaded = super().load(name, dtype=dtype, device=device)
        loaded.model.config.use_cache = False  # type: ignore[union-attr]  # nothing is asked twice; generation asks for its own
        return dataclasses.replace(loaded, prompt=prompt)

    @property
    def body(self) -> nn.Module:
        """The decoder without its head."""
        body = self.model.base_model
        assert isinstance(body, nn.Module)
        return body

    # --- inputs and outputs of a task ---

    def inputs(self, examples: "Examples", *, max_length: int) -> tuple[Input, ...]:
        """Labelled texts within the template, as token ids; a text that is too long loses its end."""
        begin, end = (self._pieces([part])[0] for part in self.prompt.split("{text}", 1))
        room = max(1, max_length - len(self._first) - len(begin) - len(end))
        pairs = examples.pairs or (None,) * len(examples)
        told = [text if pair is None else f"{text}\n{pair}" for text, pair in zip(examples.texts, pairs, strict=True)]
        return tuple([*self._first, *begin, *row[:room], *end] for row in self._pieces(told))

    def outputs(self, texts: Sequence[str], *, max_length: int) -> tuple[Sequence[int], ...]:
        """Labels or completions as token ids, each with its end where there is room for it."""
        # After a colon: by themselves, some tokenizers put a space of their own before a text.
        head, *rows = self._pieces([":", *(f": {text.strip()}" for text in texts)])
        size = len(head) if all(row[: len(head)] == head for row in rows) else 0
        return tuple(self._ended(row[size:], max_length) for row in rows)

    def open_ended(
        self, task: str, examples: "Examples", *, max_length: int
    ) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
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

    def _ended(self, row: list[int], room: int) -> list[int]:
        """A text with its end; one that is too long is cut, and its end is not here."""
        whole = [*row, *self._last]
        return whole if len(whole) <= room else row[:room]

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of pieces of texts, without a beginning or end of their own."""
        ids: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    @property
    def _first(self) -> list[int]:
        """What a text begins with; the end of the last one, for models that have no beginning."""
        token = self.tokenizer.bos_token_id
        return [self.tokenizer.eos_token_id if token is None else token] if self._has_ends else []

    @property
    def _last(self) -> list[int]:
        return [self.tokenizer.eos_token_id] if self._has_ends else []

    @property
    def _has_ends(self) -> bool:
        return self.tokenizer.eos_token_id is not None

    # --- likelihoods ---

    def surprise(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood in nats of completions after their prompts, (n,), and over how many tokens, (n,).

        One batch; differentiable in the factors in use. With an empty prompt the first token is not predicted.
        """
        told = tokens_of(prompts)
        rows = [[*prompt, *completion] for prompt, completion in zip(told, completions, strict=True)]
        padded, lengths = padded_rows(rows, self._padding)
        begins = torch.tensor([max(len(prompt), 1) for prompt in told])
        at = torch.arange(padded.shape[1])
        mask = at < lengths[:, None]
        logits = self.model(input_ids=padded.to(self.device), attention_mask=mask.to(self.device)).logits
        counted = (mask & (at >= begins[:, None]))[:, 1:].to(self.device)
        losses = _cross_entropies(logits[:, :-1], padded[:, 1:].to(self.device)) * counted
        return losses.sum(1), counted.sum(1)

    @property
    def _padding(self) -> int:
        token = self.tokenizer.pad_token_id
        return self.tokenizer.eos_token_id or 0 if token is None else token

    @torch.inference_mode()
    def surprises(
        self, prompts: Sequence[Input], completions: Sequence[Sequence[int]], *, batch_size: int = 64
    ) -> tuple[Tensor, Tensor]:
        """`surprise` of any number of completions, in their order, on the CPU; batches hold rows of like length."""
        lengths = [len(p) + len(c) for p, c in zip(tokens_of(prompts), completions, strict=True)]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        found = []
        for start in range(0, len(order), batch_size):
            at = order[start : start + batch_size]
            losses, counts = self.surprise([prompts[i] for i in at], [completions[i] for i in at])
            found.append(torch.stack([losses.cpu(), counts.cpu()]))
        losses, counts = torch.cat(found, dim=1)[:, torch.tensor(order).argsort()]
        return losses, counts

    # --- a task ---

    def losses(self, batch: TaskData, *, contrast_weight: float) -> dict[str, Tensor]:
        """Mean surprise over the completions' tokens; with weight, supervised contrast among labelled prompts."""
        losses, counts = self.surprise(batch.ids, batch.own_outputs())
        parts = {"completion": losses.sum() / counts.sum()}
        if not contrast_weight:
            return {"loss": parts["completion"]} | parts
        self._refuse_open(batch)
        texts = self.embed(batch.ids)
        return self._with_contrast(parts, texts, batch.targets.to(texts.device), contrast_weight)

    def _refuse_open(self, data: TaskData) -> None:
        if data.is_open:
            raise TaskError("Contrast wants classes, and these examples have none; set 'contrast_weight: 0'.")

    @torch.inference_mode()
    def held_out_loss(self, data: TaskData, *, contrast_weight: float) -> float:
        """The same loss over all of ``data``."""
        losses, counts = self.surprises(data.ids, data.own_outputs())
        loss = float(losses.sum() / counts.sum())
        if contrast_weight:
            from loragen.losses import contrast_loss

            self._refuse_open(data)
            loss += contrast_weight * float(contrast_loss(self.encode(data.ids), data.targets.cpu()))
        return loss

    def read(self, data: TaskData) -> Readout:
        """Mean-pooled embeddings of the prompts, and the log-likelihood of each label after each of them."""
        labels = len(data.label_ids)
        prompts = [row for row in data.ids for _ in range(labels)]
        losses, _ = self.surprises(prompts, list(data.label_ids) * len(data))
        return Readout(self.encode(data.ids), -losses.reshape(len(data), labels), data.targets)

    # --- completions ---

    def prompts(self, texts: Sequence[str]) -> tuple[Input, ...]:
        """Prompts as they are, as token ids."""
        return tuple([*self._first, *row] for row in self._pieces(texts))

    def has_prompts(self, data: TaskData) -> bool:
        """Whether open data has prompts, and not plain texts alone."""
        return any(list(row) != self._first for row in tokens_of(data.ids))

    def texts_of(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Token ids as texts, without special tokens."""
        texts: list[str] = self.tokenizer.batch_decode([list(row) for row in rows], skip_special_tokens=True)
        return texts

    @torch.inference_mode()
    def continued(self, prompts: Sequence[Input], *, max_new_tokens: int, batch_size: int = 16) -> list[str]:
        """The most likely continuation of each prompt, token by token, up to its end, without spaces around it."""
        rows, found = tokens_of(prompts), []
        for start in range(0, len(rows), batch_size):
            made = self._greedy(rows[start : start + batch_size], max_new_tokens)
            found += [text.strip() for text in self.texts_of(made.tolist())]
        return found

    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int) -> Tensor:
        """What is written after each row, (n, up to max_new_tokens)."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[self._padding] * (longest - len(row)) + list(row) for row in rows])  # padded on the left
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        return self._generate(ids, mask, max_new_tokens)[:, longest:]

    def _generate(self, ids: Tensor, mask: Tensor, max_new_tokens: int) -> Tensor:
        made: Tensor = self.model.generate(  # type: ignore[operator]
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=self._padding,
        )
        return made.cpu()


@dataclass(frozen=True)
class Seq2SeqLM(CausalLM):
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

    def inputs(self, examples: "Examples", *, max_length: int) -> tuple[Input, ...]:
        """Labelled texts within the template, as token ids, each with its end."""
        rows = super().inputs(examples, max_length=max_length - len(self._last))
        return tuple([*row, *self._last] for row in tokens_of(rows))

    def open_ended(
        self, task: str, examples: "Examples", *, max_length: int
    ) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Prompts and completions.

        Raises:
            TaskError: the texts have no completions.
        """
        if examples.completions is None:
            raise TaskError(
                f"Task {task!r} has neither labels nor completions, which an encoder-decoder learns to write; name the "
                "column of the completions under 'source', or use a base with the objective 'causal_lm'."
            )
        inputs = tuple([*row[-(max_length - 1) :], *self._last] for row in self._pieces(examples.texts))
        return inputs, self.outputs(examples.completions, max_length=max_length)

    def surprise(self, prompts: Sequence[Input], completions: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of completions, (n,), and over how many tokens, (n,); see `CausalLM.surprise`."""
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
        losses = _cross_entropies(logits, written) * counted
        return losses.sum(1), counted.sum(1)

    def prompts(self, texts: Sequence[str]) -> tuple[Input, ...]:
        """Prompts as they are, as token ids."""
        return tuple([*row, *self._last] for row in self._pieces(texts))

    def has_prompts(self, data: TaskData) -> bool:
        """Always, for there is nothing else to read."""
        return True

    def _greedy(self, rows: Sequence[Sequence[int]], max_new_tokens: int) -> Tensor:
        ids, lengths = padded_rows(rows, self._padding)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return self._generate(ids, mask, max_new_tokens)


def _cross_entropies(logits: Tensor, targets: Tensor) -> Tensor:
    """Of each token, float32 (n, length), from logits (n, length, vocabulary)."""
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
