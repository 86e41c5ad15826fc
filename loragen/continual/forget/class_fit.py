"""Trains an edit by which an adapter forgets some classes of its task: GS-LoRA's loss over labelled examples.

    loss = β relu(BND - CE of examples of forgotten classes) + CE of the others + α Σ over sites ‖(A, B)‖

Adapter and base stay as they are; the edit is a second LoRA beside the adapter, at the same sites.
"""

from collections.abc import Callable, Collection
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.linear_sites import Factors, Updates
from loragen.bases.tokenised import TaskData
from loragen.continual.forget.factors import LayerChanges, RunningMean
from loragen.continual.forget.proximal import GroupDescent
from loragen.continual.forget.settings import ClassSettings
from loragen.recipes.trainee import Trainee, TraineeObjective
from loragen.training.schedule import Schedule


@final
class BesideAdapter(Trainee):
    """Changes in training beside the factors of an adapter, which are frozen."""

    def __init__(self, own: Factors, changes: LayerChanges) -> None:
        super().__init__()
        self.changes = changes
        self._own = (dict(own),)

    def updates(self) -> Updates:
        """Both together: factors one after the other along the rank."""
        (own,) = self._own
        summed = {}
        for site, (a, b) in self.changes.factors().items():
            old_a, old_b = (each.to(a) for each in own[site])
            summed[site] = (torch.cat([old_a, a]), torch.cat([old_b, b], dim=1))
        return summed

    def factors(self) -> Factors:
        """The changes alone."""
        return self.changes.factors()


def fit_class_edit(
    adapter: Lora,
    forget: TaskData,
    remain: TaskData,
    base: Base,
    settings: ClassSettings,
    *,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Train an edit; returns its factors by site, without the sites that it leaves as they were.

    Args:
        adapter: stays as it is.
        forget: examples of the classes to forget.
        remain: examples of the others, among the same labels.
        base: of the adapter.
        settings: of the edit.
        on_step: called with the number of steps done.
    """
    from loragen.training.lightning_fit import fit

    own, rng = base.factors_of(adapter), torch.Generator().manual_seed(settings.seed)
    changes = LayerChanges({site: (len(b), a.shape[1]) for site, (a, b) in own.items()}, settings.rank, rng=rng)
    mean, begin = RunningMean(settings.average), int(settings.average_from * settings.steps)

    def step(number: int) -> None:
        if number > begin:
            mean.add(changes.factors())
        if on_step is not None:
            on_step(number)

    losses = _Losses(base.keeping_below(own), set(forget.targets.tolist()), settings)
    batches = [
        _joined(one, other)
        for one, other in zip(
            forget.batches(settings.steps, min(settings.batch_size, len(forget)), rng=rng),
            remain.batches(settings.steps, min(settings.batch_size, len(remain)), rng=rng),
            strict=True,
        )
    ]
    fit(
        TraineeObjective(losses.base, BesideAdapter(own, changes), losses),
        lambda _epoch: batches,
        Schedule(1, settings.steps, settings.learning_rate),
        seed=settings.seed,
        on_step=step,
        optimizer=lambda rate: GroupDescent(changes.groups, lr=rate, penalty=settings.penalty),
    )
    return mean.kept(changes.factors())


@final
class _Losses:
    """The loss of a batch that holds examples of both kinds."""

    def __init__(self, base: Base, classes: Collection[int], settings: ClassSettings) -> None:
        self.base, self.classes, self.settings = base, classes, settings

    def __call__(self, batch: TaskData) -> dict[str, Tensor]:
        gone = [target in self.classes for target in batch.targets.tolist()]
        parts = ([at for at, is_gone in enumerate(gone) if is_gone is wanted] for wanted in (True, False))
        forget, remain = (self.base.losses(batch.subset(part), contrast_weight=0.0)["loss"] for part in parts)
        bound = self.settings.bound or float(torch.tensor(float(len(batch.label_ids))).log())
        whole = self.settings.forget_weight * F.relu(bound - forget) + remain
        return {"loss": whole, "forget": forget, "remain": remain}


def _joined(one: TaskData, other: TaskData) -> TaskData:
    """Examples of two parts of one task as one."""
    return TaskData((*one.ids, *other.ids), torch.cat([one.targets, other.targets]), one.label_ids)
