"""A language model writes: requests of any adapters in one batch, each with choices of its own, token by token."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, final

import torch
from torch import Tensor

from loragen.bases.base import Base
from loragen.bases.language_model import LanguageModel
from loragen.serving.applied import Applied, batches, rows_of
from loragen.serving.batcher import Work

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Choice:
    """How tokens are chosen, and where a text ends."""

    max_tokens: int
    temperature: float = 0.0
    """0 takes the likeliest token."""
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end it; they are not part of it."""


@dataclass(frozen=True)
class Written:
    """What was written."""

    text: str
    tokens: int
    finish: Finish


@final
@dataclass(frozen=True, eq=False)
class Write(Work[Written]):
    """A prompt of one adapter, to be gone on from."""

    prompt: Sequence[int]
    factors: Applied
    choice: Choice
    on_text: Callable[[str], None] = field(default=lambda _text: None)
    """Hears each further piece of the text, in the thread that computes."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for it any more."""

    @property
    def size(self) -> int:
        """Rows that it adds to a batch."""
        return 1

    @classmethod
    def compute(cls, base: Base, works: Sequence[Self]) -> None:
        """Write all of them together, but for those of compositions, which go by themselves."""
        assert isinstance(base, LanguageModel)
        for group in batches(works):
            cls._write(base, group)

    @classmethod
    def _write(cls, base: LanguageModel, works: Sequence[Self]) -> None:
        rows = [_Row(base, work) for work in works]
        with rows_of(base, [work.factors for work in works]):
            base.write(
                [work.prompt for work in works],
                max_new_tokens=max(work.choice.max_tokens for work in works),
                choose=lambda _ids, logits: _chosen(rows, logits),
                watch=_watcher(rows),
            )
        for row in rows:
            row.finish()


@dataclass(eq=False)
class _Row:
    """One text as it comes into being."""

    base: LanguageModel
    work: Write
    tokens: list[int] = field(default_factory=list)
    told: int = 0
    """Characters that were passed on."""
    finished: Finish | None = None
    text: str = ""

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(self.work.choice.seed)

    def add(self, token: int) -> None:
        """Take a token, and see if it ends the text."""
        if self.finished is not None:
            return
        if token in self.base.ends:
            self.finished = "stop"
        else:
            self.tokens.append(token)
            self._read()
            if self.finished is None and len(self.tokens) >= self.work.choice.max_tokens:
                self.finished = "length"
        if self.work.gone.is_set():
            self.finished = "stop"
        self._tell()

    def _read(self) -> None:
        (self.text,) = self.base.texts_of([self.tokens])
        ends = [at for stop in self.work.choice.stop if stop and (at := self.text.find(stop)) >= 0]
        if ends:
            self.text, self.finished = self.text[: min(ends)], "stop"

    def _tell(self) -> None:
        """Pass on what is certain: no half of a character, nor what may be the beginning of a stop."""
        longest = max((len(stop) - 1 for stop in self.work.choice.stop), default=0)
        until = len(self.text) if self.finished else len(self.text) - longest
        if not self.finished and self.text.endswith("\ufffd"):
            return
        if until > self.told:
            self.work.on_text(self.text[self.told : until])
            self.told = until

    def finish(self) -> None:
        """Give the result out."""
        self.finished = self.finished or "length"
        self._tell()
        self.work.done.set_result(Written(self.text, len(self.tokens), self.finished))


def _chosen(rows: Sequence[_Row], logits: Tensor) -> Tensor:
    """Logits under which the likeliest token of each row is the one that is chosen for it."""
    chosen = logits.clone()
    for at, row in enumerate(rows):
        choice = row.work.choice
        if choice.temperature > 0 and row.finished is None:
            token = _sampled(logits[at].float() / choice.temperature, choice.top_p, row.rng)
            chosen[at, token] = torch.inf
    return chosen


def _sampled(logits: Tensor, top_p: float, rng: torch.Generator) -> int:
    """A token by its probability, of the likeliest whose probabilities reach ``top_p`` together."""
    probabilities, order = logits.softmax(0).sort(descending=True)
    before = probabilities.cumsum(0) - probabilities
    kept = torch.where(before < top_p, probabilities, 0.0)
    return int(order[torch.multinomial(kept, 1, generator=rng)])


def _watcher(rows: Sequence[_Row]) -> Callable[..., Tensor]:
    """Hands each row its newest token; rows that are finished end."""

    def watch(ids: Tensor, _scores: Any, **_options: Any) -> Tensor:
        for row, token in zip(rows, ids[:, -1].tolist(), strict=True):
            row.add(token)
        return torch.tensor([row.finished is not None for row in rows], device=ids.device)

    return watch
