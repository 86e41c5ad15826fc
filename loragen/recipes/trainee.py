"""The training of both factors, in whatever form a recipe gives them; a point of the training is the expert.

A mean over a window, as for B alone, is not taken: means of A and of B are not the mean of their products.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import final

from torch import Tensor, nn

from loragen.bases.base import Base
from loragen.bases.linear_sites import Factors, Updates
from loragen.bases.tokenised import TaskData
from loragen.recipes.expert import Expert, Start
from loragen.recipes.setting import Setting
from loragen.training.objective import Objective, OptimizerOf
from loragen.training.schedule import Schedule

Losses = Callable[[TaskData], Mapping[str, Tensor]]
"""Losses of a batch by name under the updates in use; ``loss`` is minimised."""


class Trainee(nn.Module, ABC):
    """The parameters of an adapter in training, over the base as it is."""

    @abstractmethod
    def updates(self) -> Updates:
        """What is added to the base in the next step of training; differentiable."""

    @abstractmethod
    def factors(self) -> Factors:
        """Site → A (r, in) and scaling · B (out, r) of the adapter, if training ended now."""


@final
class FreeFactors(Trainee):
    """A and B of every site, both trained: plain LoRA."""

    def __init__(self, start: Start, *, scaling: float = 1.0) -> None:
        super().__init__()
        self.sites, self.scaling = tuple(start.lora_B), scaling
        self.lora_A = nn.ParameterList([start.lora_A[site].clone() for site in self.sites])
        self.lora_B = nn.ParameterList([start.lora_B[site] / scaling for site in self.sites])

    def updates(self) -> Updates:
        """The factors."""
        return self.factors()

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors, B times the scaling."""
        pairs = zip(self.sites, self.lora_A, self.lora_B, strict=True)
        return {site: (a, self.scaling * b) for site, a, b in pairs}


@final
class TraineeObjective(Objective):
    """The loss of a batch of one task through the frozen base, under a trainee's updates."""

    def __init__(self, base: Base, trainee: Trainee, losses: Losses) -> None:
        super().__init__()
        self.trainee = trainee
        self._frozen = (base, losses)  # a tuple hides the base from parameters(), state_dict() and checkpoints

    def loss(self, batch: TaskData) -> dict[str, Tensor]:
        """The losses of a batch."""
        base, losses = self._frozen
        with base.using(self.trainee.updates()):
            return dict(losses(batch))


def train_freely(
    setting: Setting,
    trainee: Trainee,
    *,
    optimizer: OptimizerOf | None = None,
    after_step: Callable[[int], None] | None = None,
    losses: Losses | None = None,
    finish: Callable[[Factors], Factors] | None = None,
) -> Expert:
    """Train a trainee in place; of several lengths the one that does best on the held-out slice is the expert.

    Args:
        setting: the task and its batches.
        trainee: what is trained.
        optimizer: by default AdamW over all of the trainee's parameters.
        after_step: called with the number of steps done, after each.
        losses: of a batch, in place of the base's own.
        finish: makes the expert's factors, at most of the recipe's rank, of the trainee's.
    """
    points: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
    lengths = setting.lengths

    def step(number: int) -> None:
        if after_step is not None:
            after_step(number)
        if number in lengths:
            found = trainee.factors()
            points[number] = copied(finish(found) if finish else found)

    run(setting, trainee, setting.steps, optimizer=optimizer, on_step=step, losses=losses)
    return best_of(points, setting)


def run(
    setting: Setting,
    trainee: Trainee,
    steps: Iterable[TaskData],
    *,
    optimizer: OptimizerOf | None = None,
    on_step: Callable[[int], None] | None = None,
    losses: Losses | None = None,
    learning_rate: float | None = None,
) -> None:
    """Train a trainee in place, a batch a step, at the recipe's learning rate unless another is given."""
    from loragen.training.lightning_fit import fit

    base, recipe, batches = setting.base, setting.recipe, list(steps)

    def own(batch: TaskData) -> dict[str, Tensor]:
        return base.losses(batch, contrast_weight=recipe.contrast_weight)

    fit(
        TraineeObjective(base, trainee, losses or own),
        lambda _epoch: batches,
        Schedule(1, len(batches), recipe.learning_rate if learning_rate is None else learning_rate),
        seed=recipe.seed,
        on_step=on_step,
        optimizer=optimizer,
    )


def copied(factors: Factors) -> dict[str, tuple[Tensor, Tensor]]:
    """The same factors apart from the training, on the CPU."""
    return {site: (a.detach().cpu().clone(), b.detach().cpu().clone()) for site, (a, b) in factors.items()}


def best_of(points: Mapping[int, Factors], setting: Setting) -> Expert:
    """Of factors by number of steps those with the least loss on the held-out slice, as an expert."""
    losses = {}
    for steps, factors in points.items():
        with setting.base.using(factors):
            losses[steps] = setting.base.held_out_loss(setting.held_out, contrast_weight=setting.recipe.contrast_weight)
    best = min(losses, key=lambda steps: losses[steps])
    return Expert(
        lora_A={site: a for site, (a, _) in points[best].items()},
        mean={site: b for site, (_, b) in points[best].items()},
        variance={},
        snapshots={},
        steps=best,
        held_out_losses=losses,
        task_type=setting.base.task_type,
        fan_in_fan_out=setting.base.stores_transposed(points[best]),
    )
