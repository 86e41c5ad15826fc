"""Trains what makes adapters through the frozen base: on a batch of a task's texts, under the adapter made for it."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from loragen.backbone import Backbone
from loragen.frame import Frame
from loragen.objective import Objective
from loragen.taskdata import TaskData


@dataclass(frozen=True, eq=False)
class TaskBatch:
    """Texts of one task, what is known of the task, and who may help with it."""

    data: TaskData
    query: Tensor
    """Task vectors as the generator reads them, (kinds, h); zero where there is none."""
    present: Tensor
    """Which of them there are, boolean (kinds,)."""
    allowed: Tensor
    """Who may help, boolean (n,): never the task's own expert, which knows its texts."""
    start: Tensor
    """What is added to, coordinates (d,): of one adapter for all tasks, in training one that has not seen this task."""

    def to(self, device: torch.device) -> "TaskBatch":
        """The same batch on a device."""
        tensors = {name: getattr(self, name).to(device) for name in ("query", "present", "allowed", "start")}
        return replace(self, data=self.data.to(device), **tensors)


class TaskObjective(Objective):
    """The base's losses of a task's texts, supervised contrast among them, under the adapter that was made for it.

    With label texts in the loss, these already tell the task, and nothing forces a generator to read its condition;
    the contrast sees no label text.
    """

    def __init__(self, backbone: Backbone, maker: nn.Module, frame: Frame, *, contrast_weight: float) -> None:
        super().__init__()
        self.maker = maker
        self.contrast_weight = contrast_weight
        # In a tuple, which hides them from parameters() and checkpoints.
        self._frozen = (backbone, frame)

    def loss(self, batch: TaskBatch) -> dict[str, Tensor]:
        """The loss of one task's texts."""
        backbone, frame = self._frozen
        blocks = frame.unflatten(self.maker(batch))
        with backbone.using({site: (a, blocks[site]) for site, a in frame.lora_A.items()}):
            return backbone.losses(batch.data, contrast_weight=self.contrast_weight)
