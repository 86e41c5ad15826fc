"""One update of a generator: what a strategy adds to the losses of new experts, and how it is trained."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from loragen.generators.learner import Learner
from loragen.training.objective import Batch, Objective
from loragen.training.ranks import Rank


@dataclass(frozen=True, eq=False)
class UpdateBatch:
    """A batch of new experts, and one of what is old beside it."""

    new: Batch
    old: Batch | None = None

    def to(self, device: torch.device) -> "UpdateBatch":
        """The same batch on a device."""
        return UpdateBatch(self.new.to(device), None if self.old is None else self.old.to(device))

    def part(self, rank: Rank) -> "UpdateBatch":
        """The rows of one of several processes."""
        return UpdateBatch(*(None if one is None else one.part(rank) for one in (self.new, self.old)))  # type: ignore[attr-defined, arg-type]


@dataclass(frozen=True, eq=False)
class Session:
    """How a strategy trains a learner."""

    learner: Learner
    replayed: tuple[int, ...] = ()
    """Rows of seen experts that are drawn beside the new ones."""
    imitates: bool = False
    """Old descriptions are drawn beside the new experts, with what the old generator makes of them."""
    weight: float = 1.0
    """Of the loss on what is old, where the loss on new experts counts 1."""
    penalty: Callable[[], Tensor] | None = None
    """Added to every loss."""
    beside: Callable[[Batch], Tensor] | None = None
    """Added to the loss of a batch of old experts."""
    extra: nn.Module | None = None
    """Kept with the state of the training."""
    decays: bool = True
    """False where the config's weight decay would move what is to stay."""
    after_step: Callable[[], None] | None = None
    after_epoch: Callable[[], None] | None = None
    finish: Callable[[], None] | None = None
    """Brings what was trained into the learner's network, whose layers are as they were."""
    is_idle: bool = False
    """True where there is nothing to train."""

    def batches(self, epoch: int) -> list[UpdateBatch]:
        """Those of one epoch."""
        rng = torch.Generator().manual_seed(self.learner.seed * 1_000_003 + epoch)
        new = self.learner.draw(self.learner.unseen, rng)
        old: Sequence[Batch | None] = [None] * len(new)
        if self.imitates:
            old = self.learner.imagine(rng, 0.0)
        elif self.replayed:
            old = self.learner.draw(self.replayed, rng)
        return [UpdateBatch(*pair) for pair in zip(new, old, strict=True)]

    def fit(
        self, *, checkpoints: Path | None = None, on_step: Callable[[int], None] | None = None
    ) -> list[dict[str, float]]:
        """Train; returns the losses, a row a step."""
        from loragen.training.lightning_fit import fit

        learner, objective = self.learner, UpdateObjective(self)
        after = self.after_epoch
        history = (
            [{"loss": 0.0}]
            if self.is_idle
            else fit(
                objective,
                self.batches,
                learner.schedule,
                seed=learner.seed,
                checkpoints=checkpoints,
                on_step=on_step,
                on_epoch=None if after is None else lambda _epoch: after(),
                optimizer=partial(self._optimizer, objective),
                devices=learner.devices,
            )
        )
        if self.finish is not None:
            self.finish()
        return history

    def _optimizer(self, objective: Objective, learning_rate: float) -> Optimizer:
        trained = [p for p in objective.parameters() if p.requires_grad]
        decay = self.learner.schedule.weight_decay if self.decays else 0.0
        optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=decay)
        after = self.after_step
        if after is not None:

            def project(*_: Any) -> None:
                with torch.no_grad():
                    after()

            optimizer.register_step_post_hook(project)
        return optimizer


class UpdateObjective(Objective):
    """The loss on new experts, that on what is old, and what a strategy adds."""

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.own, self.imitation, self.extra = session.learner.objective, session.learner.imitation, session.extra
        self._session = (session,)  # in a tuple, which hides it from parameters() and checkpoints

    def loss(self, batch: UpdateBatch) -> dict[str, Tensor]:
        """The sum, and its parts."""
        (session,) = self._session
        own = self.own.loss(batch.new)["loss"]
        found = {"new": own}
        if batch.old is not None:
            objective = self.imitation if session.imitates else self.own
            found["old"] = session.weight * objective.loss(batch.old)["loss"]
            if session.beside is not None:
                found["beside"] = session.beside(batch.old)
        if session.penalty is not None:
            found["penalty"] = session.penalty()
        return {"loss": torch.stack(list(found.values())).sum(), **found}
