"""A task's examples as one base reads them: inputs, and the texts to predict from them, tokenised once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from loragen.errors import TaskError

Input = Sequence[int] | Path
"""Token ids of a text, or the file of an image."""


@dataclass(frozen=True)
class TaskData:
    """Inputs of a task, and the texts to predict from them as token ids; `Base.prepare` makes it.

    Closed data has one text a class, and ``targets`` say which class an input is of. Open data has a text of its own
    for every input (a completion, a caption): ``label_ids`` is as long as ``ids`` then, and ``targets`` count up.
    """

    ids: tuple[Input, ...]
    targets: Tensor
    label_ids: tuple[Sequence[int], ...]
    is_open: bool = False

    def __post_init__(self) -> None:
        assert not self.is_open or len(self.label_ids) == len(self.ids)

    @classmethod
    def open(cls, ids: tuple[Input, ...], outputs: tuple[Sequence[int], ...]) -> "TaskData":
        """Open data: inputs, each with a text of its own."""
        return cls(ids, torch.arange(len(ids)), outputs, is_open=True)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each example, by which batches are sorted: of its input, and of its own text where it has one."""
        inputs = (0 if isinstance(row, Path) else len(row) for row in self.ids)
        own = (len(row) for row in self.label_ids) if self.is_open else (0 for _ in self.ids)
        return tuple(one + other for one, other in zip(inputs, own, strict=True))

    def own_outputs(self) -> list[Sequence[int]]:
        """The text to predict from each input."""
        return [self.label_ids[target] for target in self.targets.tolist()]

    def subset(self, indices: Sequence[int]) -> "TaskData":
        """The examples at ``indices``; closed data keeps all its labels."""
        ids = tuple(self.ids[i] for i in indices)
        if self.is_open:
            return TaskData.open(ids, tuple(self.label_ids[i] for i in indices))
        return TaskData(ids, self.targets[list(indices)], self.label_ids)

    def first(self, number: int) -> "TaskData":
        """The first examples, or all where there are fewer."""
        return self.subset(range(min(number, len(self))))

    def to(self, device: torch.device) -> "TaskData":
        """The same data with its targets on a device; token ids are moved as they are padded."""
        return replace(self, targets=self.targets.to(device))

    def split(self, held_out: int, *, rng: torch.Generator) -> tuple["TaskData", "TaskData"]:
        """A random part for training and one of at most ``held_out`` examples, never above a fifth."""
        order = torch.randperm(len(self), generator=rng).tolist()
        size = min(held_out, len(order) // 5)
        return self.subset(order[size:]), self.subset(order[:size])

    def batches(self, number: int, size: int, *, rng: torch.Generator) -> Iterator["TaskData"]:
        """Endless shuffled passes cut into ``number`` batches; four at a time are sorted by length to save padding."""
        order: list[int] = []
        pending: list[list[int]] = []
        lengths = self.lengths
        for _ in range(number):
            if not pending:
                while len(order) < 4 * size:
                    order += torch.randperm(len(self), generator=rng).tolist()
                pool, order = sorted(order[: 4 * size], key=lengths.__getitem__), order[4 * size :]
                chunks = [pool[start : start + size] for start in range(0, len(pool), size)]
                pending = [chunks[i] for i in torch.randperm(len(chunks), generator=rng).tolist()]
            yield self.subset(pending.pop())


@dataclass(frozen=True)
class Readout:
    """Unit embeddings of a task's inputs under an adapted base, and how well each class fits each of them."""

    texts: Tensor
    """Of the inputs, texts or images, (n, d)."""
    logits: Tensor
    """(n, classes): scaled cosines to label texts, or log-likelihoods of labels; their softmax is the prediction."""
    targets: Tensor
    """(n,)"""

    def first(self, number: int) -> "Readout":
        """The first inputs, or all where there are fewer."""
        return Readout(self.texts[:number], self.logits[:number], self.targets[:number])


def tokens_of(ids: Sequence[Input]) -> list[Sequence[int]]:
    """Inputs that must be texts.

    Raises:
        TaskError: one of them is an image.
    """
    if any(isinstance(row, Path) for row in ids):
        raise TaskError("An image was given to a base that reads texts; use a base with the objective 'image_text'.")
    return [row for row in ids if not isinstance(row, Path)]


def padded_rows(rows: Sequence[Sequence[int]], padding: int) -> tuple[Tensor, Tensor]:
    """Token ids padded on the right, (n, longest), and how many of each are its own, (n,)."""
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), padding)
    for row, tokens in zip(padded, rows, strict=True):
        row[: len(tokens)] = torch.tensor(tokens, dtype=torch.long)
    return padded, lengths
