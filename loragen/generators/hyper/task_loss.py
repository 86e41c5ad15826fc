"""Loss of a task's texts through the frozen base, under the adapter that a network generates for the task."""

from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from loragen.adapters.frame import Frame
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.training.objective import Objective
from loragen.training.ranks import Rank


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Texts of one task, the evidence of it, and where its adapter starts."""

    data: TaskData
    query: Tensor
    """Task vectors as the generator reads them, (kinds, h); zero where there is none."""
    present: Tensor
    """Mask of the task vectors that there are, boolean (kinds,)."""
    start: Tensor
    """Coordinates that the adapter starts from, (d,): of one adapter for all tasks, in training one that has not seen
    this task."""

    def to(self, device: torch.device) -> "TaskBatch":
        """The same batch on a device."""
        tensors = {name: getattr(self, name).to(device) for name in ("query", "present", "start")}
        return replace(self, data=self.data.to(device), **tensors)

    def part(self, rank: Rank) -> "TaskBatch":
        """The texts of one of several processes, with the same evidence; it contrasts these alone."""
        rows = rank.rows(len(self.data))
        return replace(self, data=self.data.subset(range(rows.start, rows.stop)))


@dataclass(frozen=True, eq=False)
class _Frozen:
    """What an objective computes with and does not train; copies of the objective share it."""

    base: Base
    frame: Frame

    def __deepcopy__(self, _memo: dict[int, Any]) -> Self:
        return self


class TaskObjective(Objective):
    """The base's losses of a task's texts, supervised contrast among them, under the adapter generated for it.

    Label texts alone give the task away, and nothing forces a generator to read its condition; the contrast sees no
    label text.
    """

    def __init__(self, base: Base, network: nn.Module, frame: Frame, *, contrast_weight: float) -> None:
        super().__init__()
        self.network = network
        self.contrast_weight = contrast_weight
        self._frozen = _Frozen(base, frame)  # no module, which hides them from parameters() and checkpoints

    def loss(self, batch: TaskBatch) -> dict[str, Tensor]:
        """The loss of one task's texts."""
        base, frame = self._frozen.base, self._frozen.frame
        with base.using(frame.factors(self.network(batch))):
            return base.losses(batch.data, contrast_weight=self.contrast_weight)
