"""Fits of several adapters of one task to its labelled examples: the best of those drawn, each with its choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.progress import Progress, silent
from loragen.recipes.few_shot import FewShotRecipe, prepare_examples
from loragen.recipes.few_shot_choice import FOLDS, FitChoice, fit_chosen
from loragen.recipes.few_shot_rivals import rival_note
from loragen.tasks.examples import Examples
from loragen.training.threads import few_threads

CROSS_VALIDATING, FITTING, COMPARING = "cross-validating the fit", "fitting to the examples", "comparing the samples"
"""Stages of the progress."""


@dataclass(frozen=True)
class Fit:
    """An adapter of a task, fitted or as it was generated."""

    drawn: int
    """Number, among those given, of the adapter that it began at."""
    adapter: Lora
    choice: FitChoice | None = None
    """`None` where the examples are too few to choose by, and the fit is the plain one, or where there is no fit."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks for the user: an adapter that was left alone, and a classifier that does better."""
        if self.choice is None:
            return ()
        notes = []
        if self.choice.strength == 0:
            notes.append(
                "The adapter was left as it was generated: cross-validated on the examples, no fit to them brought "
                "held-out ones nearer to their label texts."
            )
        note = rival_note(self.choice.rivals, self.choice.chosen.accuracy)
        return (*notes, note) if note else tuple(notes)


def fit_all(
    adapters: Sequence[Lora],
    examples: Examples,
    base: Base,
    recipe: FewShotRecipe,
    *,
    keep: int | None = None,
    progress: Progress = silent,
) -> list[Fit]:
    """Fit adapters to labelled examples of their task by `fit_chosen`.

    Args:
        adapters: where the fits begin.
        examples: of at least two classes.
        base: the base.
        recipe: settings of each fit.
        keep: fit only so many, those with the least loss on the examples, the best first; by default all, in order.
        progress: called with the stage, the steps of all adapters done and their total.

    Raises:
        TaskError: the examples have no labels, or those of one class alone.
        AdapterError: an adapter was made for another base.
    """
    data = prepare_examples(examples, base, max_length=recipe.max_length)
    order = list(range(len(adapters)))
    fits = []
    with few_threads(base.number_of_parameters):
        if keep is not None and keep < len(adapters):
            losses = losses_on(adapters, data, base, progress=progress)
            order = sorted(order, key=losses.__getitem__)[:keep]
        for done, drawn in enumerate(order):
            told = _Counted(progress, done, len(order), recipe.steps)
            fitted = fit_chosen(adapters[drawn], data, base, recipe, on_step=told.fitting, on_trial_step=told.trying)
            fits.append(Fit(drawn, *fitted))
    return fits


def losses_on(adapters: Sequence[Lora], data: TaskData, base: Base, *, progress: Progress = silent) -> list[float]:
    """Cross-entropy of each adapter's label texts on labelled examples, in nats."""
    losses = []
    for done, adapter in enumerate(adapters):
        progress(COMPARING, done, len(adapters))
        read = base.read(data, adapter)
        losses.append(float(F.cross_entropy(read.logits, read.targets.to(read.logits.device))))
    progress(COMPARING, len(adapters), len(adapters))
    return losses


@dataclass(frozen=True)
class _Counted:
    """Steps of one of several fits, told to a progress as steps of all."""

    progress: Progress
    done: int
    total: int
    steps: int

    def fitting(self, step: int) -> None:
        self.progress(FITTING, self.done * self.steps + step, self.total * self.steps)

    def trying(self, step: int) -> None:
        self.progress(CROSS_VALIDATING, self.done * FOLDS * self.steps + step, self.total * FOLDS * self.steps)
