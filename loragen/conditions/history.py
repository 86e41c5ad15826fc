"""A person's past texts as evidence, read as a condition by the attention pool of `history_pool`.

RecLoRA (arXiv 2408.03533) generates a LoRA for a person: a recommender pools the whole history into a vector, which
weighs the experts, and the language model reads a short slice of it alone (Few2Many). Here the pool is
`HistoryPool`; what it gives stands in place of the description's embedding, and so weighs the experts of every
generator that reads that; generators that read texts through the base read the short slice.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.conditions.history_pool import HistoryPool, Pooled
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import TaskError, shown
from loragen.tasks.examples import Examples
from loragen.tasks.words import is_blank

MOST_TEXTS = 5_000
"""Texts of a history that are read; of more, those of the smallest hashes, whatever their order."""
LONGEST_READ = 20_000
"""Characters of a text that the text encoder is given; it reads some hundred tokens."""


@dataclass(frozen=True)
class History:
    """A person's past texts, with or without labels.

    They are kept in alphabetical order: the order in which they are given does not matter. A text that occurs twice
    counts twice.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    """The name of each text's label."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """Remarks for the user."""

    @classmethod
    def of(cls, examples: Examples, name: str = "The history") -> Self:
        """The texts of examples (a pair follows its text), with their labels where they have some.

        Args:
            examples: the texts, in any order.
            name: what messages call them.

        Raises:
            TaskError: there are none, or one shows nothing.
        """
        if not len(examples):
            raise TaskError(f"{name} holds no text; at least one past text of the person was wanted.")
        pairs = examples.pairs or ("",) * len(examples)
        texts = [f"{one} {other}".strip() for one, other in zip(examples.texts, pairs, strict=True)]
        if any(is_blank(text) for text in texts):
            raise TaskError(f"{name} holds a text that shows nothing; leave it out.")
        outputs = examples.outputs
        rows = sorted(zip(texts, outputs or ("",) * len(texts), strict=True))
        notes = examples.notes
        if len(rows) > MOST_TEXTS:
            rows = sorted(sorted(rows, key=_digest)[:MOST_TEXTS])
            notes += (
                f"Of the {len(texts):,} texts of {name}, {MOST_TEXTS:,} are read, which are the most; which ones does "
                "not depend on their order.",
            )
        labels = None if outputs is None else tuple(label for _, label in rows)
        return cls(tuple(text for text, _ in rows), labels, notes)

    @classmethod
    def given(cls, history: "History | Examples | Sequence[str] | Path") -> Self:
        """A history from what a user gives: a list of texts, examples, or a file of either.

        Raises:
            TaskError: a file cannot be read, there are no texts, or one shows nothing.
        """
        if isinstance(history, str):
            raise TaskError(f"The history is one text, {shown(history)}; give a list of them, or a Path to a file.")
        if isinstance(history, History):
            return cls(history.texts, history.labels, history.notes)
        if isinstance(history, Path):
            return cls.of(Examples.from_file(history), str(history))
        return cls.of(history if isinstance(history, Examples) else Examples(tuple(history)))

    def __len__(self) -> int:
        return len(self.texts)

    def examples(self, rows: Sequence[int]) -> Examples:
        """Some of the texts as examples of a task."""
        texts = tuple(self.texts[row] for row in rows)
        if self.labels is None:
            return Examples(texts)
        names = tuple(sorted(set(self.labels)))
        return Examples(texts, labels=tuple(names.index(self.labels[row]) for row in rows), label_names=names)


@dataclass(frozen=True, eq=False)
class HistoryReading:
    """A history beside a description, read by a pool."""

    query: Tensor
    """Unit vector (c,) that stands in place of the description's embedding."""
    few: Examples
    """The short slice that a base is given: the texts nearest to the description and those nearest to the pooled
    history, at most twice as many as the pool's ``short``, each once."""
    weights: Tensor
    """Share of each text in the pooled history, (n,)."""


def read_history(history: History, description: str, encoder: TextEncoder, pool: HistoryPool) -> HistoryReading:
    """Read a history; the description may be empty."""
    items = item_vectors(history, encoder)
    described = None if is_blank(description) else encoder.encode([description])[0]
    with torch.no_grad():
        pooled = pool.read_one(items, described)
    return HistoryReading(pooled.query[0], history.examples(_few(history, items, pooled)), pooled.weights[0])


def item_vectors(history: History, encoder: TextEncoder) -> Tensor:
    """One unit vector a text, (n, c): its embedding or, where it has a label, the direction between the two's."""
    if encoder.cache is not None:  # what a person wrote is not kept on disk
        encoder = replace(encoder, cache=None)
    distinct = {text: at for at, text in enumerate(dict.fromkeys(text[:LONGEST_READ] for text in history.texts))}
    texts = encoder.encode([*distinct])[[distinct[text[:LONGEST_READ]] for text in history.texts]]
    if history.labels is None:
        return texts
    names = {name: at for at, name in enumerate(dict.fromkeys(history.labels))}
    return with_labels(texts, encoder.encode([*names])[[names[label] for label in history.labels]])


def with_labels(texts: Tensor, labels: Tensor) -> Tensor:
    """The direction half-way between the unit vectors of texts and of their labels, each (n, c)."""
    return F.normalize(texts + labels, dim=-1)


def _few(history: History, items: Tensor, pooled: Pooled) -> list[int]:
    """Rows of the short slice, in the history's order."""
    number = pooled.short.shape[1]
    to_pooled = (items @ pooled.long[0]).topk(number).indices.tolist()
    chosen = {(history.texts[row], history.labels and history.labels[row]): row for row in to_pooled}
    chosen |= {(history.texts[row], history.labels and history.labels[row]): row for row in pooled.short[0].tolist()}
    return sorted(chosen.values())


def _digest(row: tuple[str, str]) -> bytes:
    return hashlib.sha256("\0".join(row).encode()).digest()
