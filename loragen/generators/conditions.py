"""Makes conditions: what a generator is told of a task, from a description and what else is at hand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from loragen.adapter import Adapter
from loragen.embedding import TextEncoder
from loragen.errors import GeneratorError
from loragen.generators.base import AdapterGenerator, Condition
from loragen.task_vectors import Evidence, Reader, Reading, Support


@dataclass(frozen=True)
class Conditioner:
    """Makes the conditions of one generator; the model behind its task vectors is loaded when it is first needed."""

    encoder: TextEncoder
    reading: Reading | None
    evidence: tuple[Evidence, ...] = ()

    @classmethod
    def of(cls, generator: AdapterGenerator, encoder: TextEncoder) -> "Conditioner":
        """For a generator and the zoo's text encoder."""
        return cls(encoder, generator.reading, generator.evidence)

    def condition(
        self,
        description: str,
        *,
        labels: Sequence[str] | None = None,
        support: Support | None = None,
        own_adapter: Adapter | None = None,
    ) -> Condition:
        """The condition of a task.

        Args:
            description: of the task.
            labels: names of its labels.
            support: a few of its texts, with labels or without.
            own_adapter: an adapter trained on the very task, for generators that follow a paper in needing one.

        Raises:
            GeneratorError: the generator cannot use what is given, or lacks what it needs.
        """
        embedding = self.encoder.encode([description])[0]
        if self.reading is None:
            if support is not None or labels is not None:
                raise GeneratorError(
                    "This generator reads the description alone; examples apply to icm, attention and hyper, "
                    "labels to attention and hyper."
                )
            return Condition(description, embedding, own_adapter=own_adapter)
        self._refuse_unread(labels, support)
        through = self.reading.through == "own_adapter"
        if through and own_adapter is None:
            raise GeneratorError(
                "This generator reads its condition through an adapter trained on the very task, as the published code "
                "does, and none was given; give one with --own-adapter, or use a generator with 'through: base'."
            )
        vectors = self._reader.task_vectors(description, support, own_adapter if through else None, labels)
        return Condition(description, embedding, vectors, own_adapter)

    def _refuse_unread(self, labels: Sequence[str] | None, support: Support | None) -> None:
        reads = f"This generator reads {' and '.join(self.evidence)}"
        if labels is not None and "labels" not in self.evidence:
            raise GeneratorError(
                f"{reads}, but not the names of the labels; leave --labels out, or use a generator that reads them, "
                "such as attention."
            )
        if support is None or "texts" in self.evidence:
            return
        if "examples" not in self.evidence:
            raise GeneratorError(
                f"{reads}, but no texts of the task; leave --examples out, or use a generator that was trained to "
                "read them."
            )
        if support.labels is None:
            raise GeneratorError(
                f"{reads}, and these examples have no labels; label them, leave --examples out, or use a generator "
                "that was trained to read texts alone."
            )

    @cached_property
    def _reader(self) -> Reader:
        assert self.reading is not None
        return Reader.load(self.reading)


def require_evidence(condition: Condition, evidence: Sequence[Evidence]) -> None:
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

    def of(self, vectors: Mapping[Evidence, Tensor], evidence: Sequence[Evidence]) -> Tensor:
        """The condition (kinds · h,) from the task vectors there are."""
        stacked = torch.stack([vectors.get(kind, self.centres[i]) for i, kind in enumerate(evidence)])
        return self.encode(stacked, torch.tensor([kind in vectors for kind in evidence]))
