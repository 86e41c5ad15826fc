"""One thread that computes over the base; what waits and is of one kind is computed together."""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, Self, TypeVar, final

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.errors import ConfigError
from loragen.serving.applied import Applied, applied, batches, rows_of

MOST_ROWS = 32
"""Rows of a batch."""
Result = TypeVar("Result")


class Stopped(ConfigError):
    """The server is going down."""


@dataclass(frozen=True, eq=False)
class Work(ABC, Generic[Result]):
    """Something to compute over the base, and where its result goes."""

    done: Future[Result] = field(default_factory=Future, init=False)

    @property
    @abstractmethod
    def size(self) -> int:
        """Rows that it adds to a batch."""

    @classmethod
    @abstractmethod
    def compute(cls, base: Base, works: Sequence[Self]) -> None:
        """Compute works together, and set their results."""


@final
@dataclass(frozen=True, eq=False)
class Embed(Work[Tensor]):
    """Texts of one adapter, to be embedded: unit vectors (n, hidden), float32."""

    rows: Sequence[Sequence[int]]
    """Token ids."""
    factors: Applied
    """Of the adapter; empty for the bare base."""

    @property
    def size(self) -> int:
        """Rows that it adds to a batch."""
        return len(self.rows)

    @classmethod
    @torch.inference_mode()
    def compute(cls, base: Base, works: Sequence[Self]) -> None:
        """Embed the texts of all works, texts of like length together, each under its own adapter."""
        for group in batches(works):
            cls._embed(base, group)

    @classmethod
    def _embed(cls, base: Base, works: Sequence[Self]) -> None:
        places = [(work, row) for work in works for row in work.rows]
        order = sorted(range(len(places)), key=lambda at: len(places[at][1]))
        parts = []
        for start in range(0, len(order), MOST_ROWS):
            batch = [places[at] for at in order[start : start + MOST_ROWS]]
            parts.append(_states(base, [row for _, row in batch], [work.factors for work, _ in batch]))
        vectors = F.normalize(torch.cat(parts)[torch.tensor(order).argsort()], dim=-1)
        for work, part in zip(works, torch.split(vectors, [work.size for work in works]), strict=True):
            work.done.set_result(part)


@final
@dataclass(frozen=True, eq=False)
class Judge(Work[Tensor]):
    """Texts and labels of one adapter over a language model: probabilities of the labels (n, labels)."""

    data: TaskData
    factors: Applied

    @property
    def size(self) -> int:
        """Rows that it adds to a batch."""
        return len(self.data)

    @classmethod
    @torch.inference_mode()
    def compute(cls, base: Base, works: Sequence[Self]) -> None:
        """Read one work after the other: a language model reads all labels after each text."""
        for work in works:
            with applied(base, work.factors):
                work.done.set_result(base.read(work.data).logits.softmax(1).cpu())


def _states(base: Base, rows: Sequence[Sequence[int]], factors: Sequence[Applied]) -> Tensor:
    """Pooled states of one batch; where all rows have one adapter, its factors need not be gathered."""
    if all(one is factors[0] for one in factors):
        with applied(base, factors[0]):
            return base.states(rows, pooling=base.pooling)
    with rows_of(base, factors):
        return base.states(rows, pooling=base.pooling)


@final
class Batcher:
    """The thread, and what waits for it."""

    def __init__(self, base: Base) -> None:
        self._base = base
        self._waiting: deque[Work[object]] = deque()
        self._ready = threading.Condition()
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="loragen-batches", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Works that wait."""
        return len(self._waiting)

    def add(self, work: Work[Result]) -> Future[Result]:
        """Let a work be computed.

        Raises:
            Stopped: the server is going down.
        """
        with self._ready:
            if self._is_stopping:
                raise Stopped("The server is going down.")
            self._waiting.append(work)  # type: ignore[arg-type]
            self._ready.notify()
        return work.done

    def stop(self) -> None:
        """Finish what waits, and end."""
        with self._ready:
            self._is_stopping = True
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        while works := self._taken():
            alive = [work for work in works if work.done.set_running_or_notify_cancel()]
            try:
                if alive:
                    type(alive[0]).compute(self._base, alive)
            except BaseException as error:  # whatever it is, those who wait must hear of it
                for work in alive:
                    if not work.done.done():
                        work.done.set_exception(error)

    def _taken(self) -> list[Work[object]]:
        """The first work that waits and those of its kind, as many as one batch holds; none at the end."""
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._is_stopping)
            if not self._waiting:
                return []
            first = self._waiting.popleft()
            taken, rest, size = [first], deque[Work[object]](), first.size
            while self._waiting and size < MOST_ROWS:
                other = self._waiting.popleft()
                if type(other) is type(first):
                    taken.append(other)
                    size += other.size
                else:
                    rest.append(other)
            self._waiting.extendleft(reversed(rest))
            return taken
