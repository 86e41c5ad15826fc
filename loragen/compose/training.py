"""The training of gates, or of experts under their gate, on labelled texts of all tasks together."""

from collections.abc import Callable, Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from loragen.adapters.rank_gate import GatedUpdate
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.compose.mixed import batches
from loragen.compose.settings import Making, TrainedSettings
from loragen.compose.switching import put_on
from loragen.compose.text_rows import CurrentRows
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule

UpdatesOf = Callable[[Mapping[str, Tensor]], Mapping[str, GatedUpdate]]
"""From parameters by name to the updates that they make."""


@final
class GateObjective(Objective):
    """The loss of a batch under gated updates, which parameters make."""

    def __init__(
        self,
        base: Base,
        parameters: Mapping[str, Tensor],
        updates: UpdatesOf,
        current: CurrentRows | None,
        penalty: Callable[[], Tensor] | None,
    ) -> None:
        super().__init__()
        self.names = tuple(parameters)
        self.values = nn.ParameterList([value.clone() for value in parameters.values()])
        self._frozen = (base, updates, current, penalty)  # a tuple hides the base from parameters() and checkpoints

    def named(self) -> dict[str, Tensor]:
        """The parameters by name."""
        return dict(zip(self.names, self.values, strict=True))

    def loss(self, batch: TaskData) -> dict[str, Tensor]:
        """The base's loss under the updates, and the penalty where there is one."""
        base, updates, current, penalty = self._frozen
        with put_on(base, updates(self.named()), current):
            parts = dict(base.losses(batch, contrast_weight=0.0))
        if penalty is not None:
            parts["penalty"] = penalty()
            parts["loss"] = parts["loss"] + parts["penalty"]
        return parts


def train_parameters(
    making: Making,
    settings: TrainedSettings,
    parameters: Mapping[str, Tensor],
    updates: UpdatesOf,
    *,
    current: CurrentRows | None = None,
    on_step: Callable[[int], None] | None = None,
    penalty: Callable[[], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Train parameters of gated updates by AdamW; returns them by name, on the CPU.

    Args:
        making: the experts, the base and the labelled texts.
        settings: of the training.
        parameters: what they begin at.
        updates: what they make.
        current: the texts of the batch, for gates that are computed from whole texts.
        on_step: called with the number of steps done, after each.
        penalty: is added to the loss of a batch, after it was computed.

    Raises:
        TaskError: a task has no labelled texts, or there are too few.
    """
    from loragen.training.lightning_fit import fit

    base = making.base
    drawn = _batches(making, settings)
    objective = GateObjective(base, parameters, updates, current, penalty)

    def step(number: int) -> None:
        making.progress("training the gate", number, settings.steps)
        if on_step is not None:
            on_step(number)

    schedule = Schedule(1, len(drawn), settings.learning_rate)
    fit(objective, lambda _epoch: drawn, schedule, seed=making.seed, on_step=step)
    return {name: value.detach().cpu().clone() for name, value in objective.named().items()}


def _batches(making: Making, settings: TrainedSettings) -> Sequence[TaskData]:
    return batches(
        making.base,
        making.given_examples(),
        settings.steps,
        settings.batch_size,
        labels=settings.labels,
        max_length=settings.max_length,
        rng=making.rng(),
    )


def small(shape: Sequence[int], *, rng: torch.Generator, scale: float = 0.02) -> Tensor:
    """Normal numbers of a small scale, for routers to begin at."""
    return scale * torch.randn(*shape, generator=rng)
