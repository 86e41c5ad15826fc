"""A frozen base model that scores and trains adapters, with any adapter switched in.

`Base` is the part that all kinds share; the four kinds are in `text_encoder`, `causal_lm`, `seq2seq` and `image_text`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.bases.devices import DeviceName, choose_device
from loragen.bases.hub import quiet_loading, resolve_model, weights_hash
from loragen.bases.linear_sites import Factors, Updates, find_sites, site_updates, stores_transposed
from loragen.bases.losses import contrast_loss
from loragen.bases.pretrained import load_pretrained, load_tokenizer
from loragen.bases.renaming import names_in, refuse_fused
from loragen.bases.row_updates import RowUpdates, row_updates
from loragen.bases.scores import AnyScores
from loragen.bases.tokenised import Input, Readout, TaskData, padded_rows, tokens_of
from loragen.bases.wording import PROMPT, Wording
from loragen.bases.wording import LabelTargets as LabelTargets
from loragen.errors import TaskError
from loragen.tasks.examples import Examples

Pooling = Literal["mean", "last", "cls"]
ObjectiveName = Literal["label_text", "causal_lm", "seq2seq", "image_text"]
"""Training and scoring of a base, and so the kind of model that it must be."""
_POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
"""Models whose first position comes after that of the padding token."""


class Switch(ABC):
    """An adapter that is not factors alone: it computes from the input what it adds to a base."""

    @abstractmethod
    def put_on(self, base: "Base") -> AbstractContextManager[None]:
        """Add what it computes to the base while the block runs.

        Raises:
            AdapterError: the base lacks a site of it, has another shape there, or is of a kind that it cannot change.
        """


@dataclass(frozen=True)
class Base(ABC):
    """A frozen model and its tokenizer."""

    name: str
    model: nn.Module
    tokenizer: Any
    fingerprint: str
    """Hash of the weights; it tells the base that an adapter was trained on from all others."""
    pooling: Pooling = "mean"
    """From the hidden states of a text to its embedding."""
    objective: ClassVar[ObjectiveName]
    task_type: ClassVar[str | None]
    """PEFT's name for the purpose of adapters of this base."""
    model_class: ClassVar[str] = "AutoModel"
    writes_text: ClassVar[bool] = False
    """True for language models, which complete prompts."""

    @classmethod
    def load(
        cls,
        name: str,
        *,
        dtype: torch.dtype = torch.float32,
        device: DeviceName = "cpu",
        prompt: Wording = PROMPT,
        may_fetch: bool = True,
    ) -> Self:
        """Load a base by its Hub name, a local path, or the name of the embedded MiniLM; no code of its own is run.

        Args:
            name: of the base.
            dtype: of the frozen weights.
            device: kind of device to compute on.
            prompt: how tasks are put to a language model; other bases read texts as they are.
            may_fetch: download what is not on this machine; see `resolve_model`.

        Raises:
            ConfigError: there is no such model or device, or the model is of another kind.
        """
        folder, chosen = resolve_model(name, may_fetch=may_fetch), choose_device(device)
        loaded = load_pretrained(
            name, folder, cls.model_class, dtype=dtype, use=f"a base for {cls.objective!r}, its objective"
        )
        loaded.refuse_made_up(name)
        model = loaded.model.requires_grad_(False).to(chosen)
        tokenizer = load_tokenizer(name, folder)
        with quiet_loading():
            return cls(name, model, tokenizer, weights_hash(folder), **cls._own_parts(name, folder, model, prompt))

    @classmethod
    @abstractmethod
    def _own_parts(cls, name: str, folder: Path, model: Any, prompt: Wording) -> dict[str, Any]:
        """Fields that this kind of base has beside the common ones."""

    @property
    def device(self) -> torch.device:
        """Device that the base computes on."""
        return next(self.model.parameters()).device

    @property
    def number_of_parameters(self) -> int:
        """Parameters of the model, all of its weights and biases counted."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    @abstractmethod
    def body(self) -> nn.Module:
        """The part of the model that gives hidden states of a text."""

    # --- sites ---

    def sites(self, target_modules: Sequence[str] | str) -> dict[str, tuple[int, int]]:
        """Linear modules whose trailing dotted parts match a target, or whose whole name matches a regular expression.

        Returns site → (out, in).

        Raises:
            AdapterError: a target matches nothing.
        """
        return find_sites(self.model, self.name, target_modules)

    def stores_transposed(self, sites: Iterable[str]) -> bool:
        """True if the weights at these sites are kept as (in, out), as GPT-2's are: PEFT's ``fan_in_fan_out``.

        Raises:
            AdapterError: some are and some are not, which one adapter cannot say.
        """
        return stores_transposed(self.model, self.name, sites)

    # --- a task's examples, made ready ---

    def prepare(self, examples: Examples, *, max_length: int, instruction: str | None = None) -> TaskData:
        """Tokenise examples; those with label names are closed, all others open.

        Args:
            examples: of one task. Labels that are not known count as the first class.
            max_length: tokens of a text.
            instruction: tells a language model the task, in its prompt; for other bases it is put in front of every
                text and every label. It comes on top of ``max_length``.

        Raises:
            TaskError: the base's objective wants labels, completions or images that the examples do not have.
        """
        if instruction is not None:
            return self._prepare_told(examples, instruction, max_length=max_length)
        if not examples.label_names:
            return TaskData.open(*self.open_ended(examples, max_length=max_length))
        targets = torch.tensor(examples.labels or (0,) * len(examples))
        inputs = self.inputs(examples, max_length=max_length)
        return TaskData(inputs, targets, self.outputs(examples.label_names, max_length=max_length))

    @abstractmethod
    def _prepare_told(self, examples: Examples, instruction: str, *, max_length: int) -> TaskData:
        """`prepare` where the base is told the task."""

    def _prepare_in_front(self, examples: Examples, instruction: str, *, max_length: int) -> TaskData:
        """`prepare` with an instruction in front of every text and every label."""
        texts, names = (
            tuple(f"{instruction} {text}" for text in group) for group in (examples.texts, examples.label_names)
        )
        more = len(self.tokenize([instruction], max_length=max_length)[0])
        return self.prepare(replace(examples, texts=texts, label_names=names), max_length=max_length + more)

    @abstractmethod
    def inputs(self, examples: Examples, *, max_length: int) -> tuple[Input, ...]:
        """Labelled examples as the base reads them."""

    @abstractmethod
    def outputs(self, texts: Sequence[str], *, max_length: int) -> tuple[Sequence[int], ...]:
        """Label texts as the base reads or predicts them."""

    @abstractmethod
    def open_ended(self, examples: Examples, *, max_length: int) -> tuple[tuple[Input, ...], tuple[Sequence[int], ...]]:
        """Inputs and outputs of examples without labels.

        Raises:
            TaskError: this kind of base can make nothing of these.
        """

    @cached_property
    def max_tokens(self) -> int | None:
        """Most tokens of a text that the model has positions for; `None` where its config sets no limit."""
        config: Any = getattr(self.model.config, "text_config", self.model.config)
        positions: int | None = getattr(config, "max_position_embeddings", None)
        if positions is None or config.model_type not in _POSITIONS_AFTER_PADDING:
            return positions
        return positions - (config.pad_token_id or 0) - 1

    def tokenize(self, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int) -> list[list[int]]:
        """Token ids of each text; a pair is joined by the separator, and the longer half is cut first.

        A tokenizer without a separator, as causal models have, joins a pair by a line break. No text gets longer than
        the model has positions for.
        """
        if pairs is not None and self.tokenizer.sep_token_id is None:
            pairs = [f"\n{pair}" for pair in pairs]
        encoded = self.tokenizer(
            list(texts),
            list(pairs) if pairs is not None else None,
            truncation="longest_first",
            max_length=min(max_length, self.max_tokens or max_length),
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    @abstractmethod
    def keeping_below(self, sites: Iterable[str]) -> "Base":
        """The same base, for many passes under factors at these sites; what lies below is kept if that saves time."""

    # --- embeddings ---

    @abstractmethod
    def states(self, ids: Sequence[Input], *, pooling: Pooling = "mean") -> Tensor:
        """One vector an input of a batch, float32 (n, hidden); differentiable in the factors in use."""

    def _text_states(self, ids: Sequence[Input], pooling: Pooling) -> Tensor:
        """Last-layer hidden states of one batch of texts: their mean over the tokens, or the last token's."""
        padded, lengths = padded_rows(tokens_of(ids), self.tokenizer.pad_token_id or 0)
        mask = torch.arange(padded.shape[1]) < lengths[:, None]
        device = self.device
        hidden: Tensor = self.body(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state
        if pooling == "cls":
            return hidden[:, 0].float()
        if pooling == "last":
            return hidden[torch.arange(len(ids)), lengths - 1].float()
        weights = mask.to(device, torch.float32)[..., None]
        return (hidden.float() * weights).sum(1) / weights.sum(1)

    def embed(self, ids: Sequence[Input]) -> Tensor:
        """Unit embeddings of one batch, float32 (n, hidden); differentiable in the factors in use."""
        return F.normalize(self.states(ids, pooling=self.pooling), dim=-1)

    def encode(self, ids: Sequence[Input], *, batch_size: int = 64) -> Tensor:
        """Unit embeddings of any number of inputs, in their order, on the CPU."""
        return F.normalize(self.encode_states(ids, pooling=self.pooling, batch_size=batch_size), dim=-1)

    @torch.inference_mode()
    def encode_states(self, ids: Sequence[Input], *, pooling: Pooling = "mean", batch_size: int = 64) -> Tensor:
        """`states` of any number of inputs, in their order, on the CPU; batches hold texts of like length."""
        if not ids:
            raise TaskError("There is no text to encode; at least one was wanted.")
        lengths = [0 if isinstance(row, Path) else len(row) for row in ids]
        order = sorted(range(len(ids)), key=lengths.__getitem__)
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        states = torch.cat([self.states([ids[i] for i in batch], pooling=pooling).cpu() for batch in batches])
        return states[torch.tensor(order).argsort()]

    # --- a task ---

    @abstractmethod
    def losses(self, batch: TaskData, *, contrast_weight: float) -> dict[str, Tensor]:
        """Losses of a batch under the factors in use: ``loss``, which is minimised, and its parts by name."""

    @abstractmethod
    def held_out_loss(self, data: TaskData, *, contrast_weight: float) -> float:
        """The same loss over all of ``data`` at once, under the factors in use."""

    def read(self, data: TaskData, adapter: Lora | Switch | None = None) -> Readout:
        """Embeddings of the inputs and how well each class fits them, under an adapter or the factors in use."""
        with self.adapted(adapter):
            return self._read(data)

    @abstractmethod
    def _read(self, data: TaskData) -> Readout:
        """`read` under the factors in use."""

    def score(self, data: TaskData, adapter: Lora | Switch | None = None) -> AnyScores:
        """Scores of the kind that the task and the base admit, under an adapter or the factors in use."""
        with self.adapted(adapter):
            return self._score(data)

    @abstractmethod
    def _score(self, data: TaskData) -> AnyScores:
        """`score` under the factors in use."""

    # --- adapters ---

    @contextmanager
    def using(self, updates: Updates) -> Iterator[None]:
        """Add scaling · B · A, or what a function of the input gives, at the given sites while the block runs.

        Raises:
            AdapterError: the base has no such site, or one of another shape.
        """
        with site_updates(self.model, self.name, updates):
            yield

    @contextmanager
    def adapted(self, adapter: Lora | Switch | None) -> Iterator[None]:
        """Switch an adapter in while the block runs; ``None`` leaves the base as it is.

        Raises:
            AdapterError: the base has no such site, or one of another shape.
        """
        if isinstance(adapter, Switch):
            put = adapter.put_on(self)
        else:
            put = self.using({} if adapter is None else self.factors_of(adapter))
        with put:
            yield

    @contextmanager
    def adapted_rows(self, adapters: Sequence[Lora | Factors | None]) -> Iterator[None]:
        """Give each row of a batch an adapter of its own while the block runs; `None` leaves a row to the base.

        Batches in the block are of these rows, in their order; factors are those of `factors_of`.

        Raises:
            AdapterError: the base lacks a site of an adapter, or has another shape there.
        """
        rows = [{} if one is None else self.factors_of(one) if isinstance(one, Lora) else one for one in adapters]
        with row_updates(self.model, self.name, RowUpdates.of(rows)):
            yield

    def factors_of(self, adapter: Lora) -> Factors:
        """Scaled factors of an adapter under the names that its sites have in the model."""
        names = names_in(self.model, adapter.sites)
        refuse_fused(names, type(self.model).__name__)
        return {new or site: adapter.scaled_factors(site) for site, new in names.items()}


def with_contrast(parts: dict[str, Tensor], texts: Tensor, targets: Tensor, weight: float) -> dict[str, Tensor]:
    """Losses by name with their sum as ``loss``, and supervised contrast among texts where it has weight."""
    if not weight:
        return {"loss": sum(parts.values(), torch.zeros((), device=texts.device))} | parts
    contrast = contrast_loss(texts, targets)
    return {"loss": sum(parts.values()) + weight * contrast} | parts | {"contrast": contrast}
