"""Answers about texts: embeddings, classes, order by likeness; each under an adapter or the bare base."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from loragen.bases.base import Base
from loragen.bases.language_model import with_wording
from loragen.bases.losses import LOGIT_SCALE
from loragen.errors import ConfigError, TaskError, shown
from loragen.serving.applied import Applied
from loragen.serving.batcher import Batcher, Embed, Judge
from loragen.serving.store import AdapterStore, Served
from loragen.tasks.examples import Examples
from loragen.tasks.words import checked_names, listed

Read = TypeVar("Read")
MOST_KEPT = 200
"""Sets of label texts whose embeddings are kept."""
LONGEST_KEPT = 10_000
"""Characters of a set that is kept."""
MAX_LENGTH = 128
"""Tokens of a text that are read, as `loragen classify` does."""
NOTHING: Applied = {}
"""Factors of the bare base; one object, by which batches know it."""


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of texts, and what they cost."""

    vectors: Tensor
    """Unit vectors (n, hidden), float32."""
    tokens: int


@dataclass(frozen=True)
class Guess:
    """A class and how likely it is."""

    label: str
    score: float


@dataclass(frozen=True, eq=False)
class Texts:
    """Texts and adapters over one base."""

    base: Base
    batcher: Batcher
    store: AdapterStore
    _tokenizer: threading.Lock = field(default_factory=threading.Lock)
    """Held while texts are cut into tokens: a tokenizer's settings are its own, not a call's."""
    _labels: OrderedDict[tuple[str, tuple[int, int], tuple[str, ...]], Tensor] = field(default_factory=OrderedDict)

    def served(self, model: str | None) -> Served | None:
        """The adapter that a request names; `None` for the base.

        Raises:
            UnknownAdapter: there is none of that name.
            AdapterError: it is damaged, or made for another base.
        """
        if model is None or model in (self.base.name, self.base.name.rpartition("/")[2]):
            return None
        return self.store.get(model)

    def tokenize(self, texts: Sequence[str], max_length: int = MAX_LENGTH) -> list[list[int]]:
        """Texts as token ids."""
        return self.alone(lambda base: base.tokenize(list(texts), max_length=max_length))

    def alone(self, read: Callable[[Base], Read]) -> Read:
        """What comes of the base's tokenizer, which one thread uses at a time."""
        with self._tokenizer:
            return read(self.base)

    async def embed(self, texts: Sequence[str], model: str | None) -> Embedded:
        """Embed texts under an adapter."""
        adapter = await asyncio.to_thread(self.served, model)
        return await self._embed(texts, NOTHING if adapter is None else adapter.factors)

    async def _embed(self, texts: Sequence[str], factors: Applied) -> Embedded:
        rows = await asyncio.to_thread(self.tokenize, texts)
        vectors = await asyncio.wrap_future(self.batcher.add(Embed(rows, factors)))
        return Embedded(vectors, sum(map(len, rows)))

    async def predict(
        self, texts: Sequence[str], model: str | None, labels: Sequence[str] | None = None
    ) -> list[list[Guess]]:
        """The classes of texts, the likeliest first.

        Raises:
            ConfigError: no labels are given, and the adapter's card has none.
            TaskError: the labels are fewer than two or not distinct.
        """
        adapter = await asyncio.to_thread(self.served, model)
        own = () if adapter is None else adapter.facts.labels
        names = own if labels is None else checked_names(labels, "The labels")
        if labels is None and not names:
            raise ConfigError(f"{shown(model or 'the base')} has no labels of its own; name some with 'labels'.")
        if len(names) < 2:
            raise TaskError(f"The labels are {listed(names)}; at least two different ones are wanted.")
        if self.base.writes_text:
            examples = Examples(tuple(texts), label_names=names)
            data = await asyncio.to_thread(
                self.alone, lambda base: worded_as(base, adapter).prepare(examples, max_length=MAX_LENGTH)
            )
            work = Judge(data, NOTHING if adapter is None else adapter.factors)
            return [_sorted(names, row) for row in await asyncio.wrap_future(self.batcher.add(work))]
        known = await self._label_vectors(adapter, names)
        embedded = await self._embed(texts, NOTHING if adapter is None else adapter.factors)
        rows = (LOGIT_SCALE * embedded.vectors @ known.T).softmax(1)
        return [_sorted(names, row) for row in rows]

    async def _label_vectors(self, adapter: Served | None, names: tuple[str, ...]) -> Tensor:
        key = ("", (0, 0), names) if adapter is None else (adapter.facts.name, adapter.facts.stamp, names)
        if (kept := self._labels.get(key)) is None:
            factors = NOTHING if adapter is None or adapter.has_frozen_labels else adapter.factors
            kept = (await self._embed(names, factors)).vectors
            if sum(map(len, names)) <= LONGEST_KEPT:
                self._labels[key] = kept
            while len(self._labels) > MOST_KEPT:
                self._labels.popitem(last=False)
        return kept

    async def likeness(self, source: str, others: Sequence[str], model: str | None) -> list[float]:
        """Cosine of one text with each of the others."""
        embedded = await self.embed([source, *others], model)
        found: list[float] = (embedded.vectors[1:] @ embedded.vectors[0]).tolist()
        return found


def worded_as(base: Base, adapter: Served | None) -> Base:
    """The base, to which texts are put as an adapter's card says."""
    return base if adapter is None or adapter.wording is None else with_wording(base, adapter.wording)


def _sorted(names: Sequence[str], row: Tensor) -> list[Guess]:
    order = torch.argsort(row, descending=True, stable=True).tolist()
    return [Guess(names[at], float(row[at])) for at in order]
