"""Evidence: all that is known of a task. Conditions: the evidence as vectors, which generators read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.conditions.history import History, HistoryReading, read_history
from loragen.conditions.history_pool import HistoryPool
from loragen.conditions.task_vectors import EvidenceKind, Reader, Reading
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError, TaskError
from loragen.tasks.examples import Examples
from loragen.tasks.words import checked_names, is_blank, listed, refuse_unreadable


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of a task.

    Raises:
        TaskError: the description is empty and there is no history, or labels are fewer than two or not distinct.
    """

    description: str
    labels: tuple[str, ...] | None = None
    """Names of the task's labels."""
    examples: Examples | None = None
    """A few of its texts, with labels or without."""
    own_adapter: Lora | None = None
    """An adapter trained on the very task: only for a generator whose paper reads it, never for an unseen task."""
    history: History | None = None
    """Past texts of the person that the adapter is for; with them the description may be empty."""

    def __post_init__(self) -> None:
        refuse_unreadable(self.description, "The task description")
        if is_blank(self.description) and self.history is None:
            raise TaskError('The task description is empty; say the task in words, as in: loragen generate "Sort …".')
        if self.labels is not None and len(checked_names(self.labels, "The labels")) < 2:
            raise TaskError(f"The labels are {listed(self.labels)}; at least two different ones are wanted.")


@dataclass(frozen=True, eq=False)
class Condition:
    """The evidence of a task as vectors."""

    description: str
    embedding: Tensor
    """Unit embedding of the description by the zoo's text encoder, (c,); of description and history where there is a
    history, see `HistoryPool`."""
    task_vectors: Mapping[EvidenceKind, Tensor] = field(default_factory=dict)
    """Task vectors (h,) by kind of evidence, for generators with a ``reading``."""
    own_adapter: Lora | None = None
    """An adapter trained on the very task: only for a generator whose paper reads it, never for an unseen task."""


@dataclass(frozen=True)
class Conditioner:
    """Makes conditions for one reading of some kinds of evidence.

    The model behind the task vectors is loaded when it is first needed.
    """

    encoder: TextEncoder
    reading: Reading | None = None
    """Settings of the reading of task vectors; `None` where the description's embedding is all that is used."""
    evidence: tuple[EvidenceKind, ...] = ()
    """Kinds that task vectors are read from; other kinds are left aside."""
    pool: HistoryPool | None = None
    """Pools histories; by default the untrained one."""

    def condition(self, evidence: Evidence) -> Condition:
        """The condition of a task; evidence of kinds that are not read does not bear on it.

        Raises:
            GeneratorError: something that the reading needs is missing.
        """
        past = None if evidence.history is None else self.read_history(evidence)
        embedding = self.encoder.encode([evidence.description])[0] if past is None else past.query
        own_adapter = evidence.own_adapter
        if self.reading is None:
            return Condition(evidence.description, embedding, own_adapter=own_adapter)
        if past is not None:
            self._refuse_unread(past.few)
        through = self.reading.through == "own_adapter"
        if through and own_adapter is None:
            raise GeneratorError(
                "This generator reads its condition through an adapter trained on the very task, as the published code "
                "does, and none was given; give one with --own-adapter, or use a generator with 'through: base'."
            )
        examples = evidence.examples if {"texts", "examples"} & set(self.evidence) else None
        if examples is not None and "texts" not in self.evidence and examples.outputs is None:
            raise GeneratorError(
                f"This generator reads {' and '.join(self.evidence)}, and these examples have no labels; label them, "
                "leave them out, or use a generator that was trained to read texts alone."
            )
        vectors = self._reader.task_vectors(
            evidence.description,
            examples=examples,
            adapter=own_adapter if through else None,
            labels=evidence.labels if "labels" in self.evidence else None,
        )
        if past is not None:
            told = self._reader.task_vectors("", examples=past.few, adapter=own_adapter if through else None)
            vectors = _mean_over_both(vectors, 0 if examples is None else len(examples), told, len(past.few))
        return Condition(evidence.description, embedding, vectors, own_adapter)

    def read_history(self, evidence: Evidence) -> HistoryReading:
        """The history of a task's evidence, pooled; the last one that was read is kept."""
        assert evidence.history is not None
        key = (evidence.history, evidence.description)
        if key not in self._read:
            reading = read_history(evidence.history, evidence.description, self.encoder, self._pool)
            self._read.clear()
            self._read[key] = reading
        return self._read[key]

    def _refuse_unread(self, few: Examples) -> None:
        """Refuse a history that would not bear on what is generated."""
        if "texts" in self.evidence or ("examples" in self.evidence and few.outputs is not None):
            return
        lacks = "that has no labels " if "examples" in self.evidence else ""
        raise GeneratorError(
            f"This generator reads {' and '.join(self.evidence)}, so a history {lacks}does not bear on it; use sg, or "
            "a generator that was trained to read texts."
        )

    @cached_property
    def _read(self) -> dict[tuple[History, str], HistoryReading]:
        return {}

    @cached_property
    def _pool(self) -> HistoryPool:
        return HistoryPool.untrained(self.encoder.size) if self.pool is None else self.pool

    @cached_property
    def _reader(self) -> Reader:
        assert self.reading is not None
        return Reader.load(self.reading)


def _mean_over_both(
    one: Mapping[EvidenceKind, Tensor], n: int, other: Mapping[EvidenceKind, Tensor], m: int
) -> dict[EvidenceKind, Tensor]:
    """Task vectors of n texts and of m others as those of all; kinds that one of them lacks are the other's."""
    both = {kind: (n * one[kind] + m * other[kind]) / (n + m) for kind in one.keys() & other.keys()}
    return {**one, **other, **both}


def require_evidence(condition: Condition, evidence: Sequence[EvidenceKind]) -> None:
    """Refuse a condition without any of the evidence that a generator reads.

    Raises:
        GeneratorError: there is none.
    """
    if not set(evidence) & set(condition.task_vectors):
        raise GeneratorError(
            f"This generator reads {' or '.join(evidence)}, but the condition holds "
            f"{' and '.join(condition.task_vectors) or 'no task vector'}; give a few of the task's texts as well."
        )


@dataclass(frozen=True, eq=False)
class ConditionCodec:
    """Task vectors as the network reads them: each kind of evidence centred and scaled, absent kinds zero."""

    centres: Tensor
    """(kinds, h)"""
    scales: Tensor
    """(kinds,), positive."""

    @classmethod
    def fit(cls, states: Sequence[Sequence[Tensor]]) -> Self:
        """Fit to each kind's states: one tensor (n, h) a task. The scale is the deviation of the tasks' means."""
        means = torch.stack([torch.stack([task.mean(0) for task in kind]) for kind in states])
        centres = means.mean(1)
        scales = (means - centres[:, None]).square().mean((1, 2)).sqrt()
        return cls(centres, torch.where(scales > 0, scales, 1.0))

    @property
    def size(self) -> int:
        """Numbers in a condition."""
        return self.centres.numel()

    def encode(self, vectors: Tensor, present: Tensor) -> Tensor:
        """Task vectors (..., kinds, h), and which of them there are (..., kinds), as a condition (..., kinds · h)."""
        scaled = (vectors - self.centres) / self.scales[:, None]
        return (scaled * present[..., None]).flatten(-2)

    def of(self, vectors: Mapping[EvidenceKind, Tensor], evidence: Sequence[EvidenceKind]) -> Tensor:
        """The condition (kinds · h,) from the task vectors there are."""
        stacked = torch.stack([vectors.get(kind, self.centres[i]) for i, kind in enumerate(evidence)])
        return self.encode(stacked, torch.tensor([kind in vectors for kind in evidence]))
