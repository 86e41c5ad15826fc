"""Self-training: an adapter is fitted to the surest of the pseudo-labels that it gives a task's unlabelled texts."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from loragen.adaptation.pseudo_labels import PseudoLabels, pseudo_labels
from loragen.adaptation.settings import AdaptRecipe as AdaptRecipe
from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import Readout, TaskData
from loragen.recipes.few_shot import fit_path
from loragen.training.threads import few_threads


@dataclass(frozen=True, eq=False)
class Adapted:
    """An adapter after self-training."""

    lora: Lora
    before: Readout
    """The texts under the adapter that it began at."""
    guess: PseudoLabels
    """What it was fitted to."""
    is_fitted: bool
    """False where all texts seem to be of one class, from which nothing can be told apart: the adapter is as it was."""


def self_train(
    adapter: Lora,
    texts: TaskData,
    base: Base,
    recipe: AdaptRecipe,
    *,
    labelled: TaskData | None = None,
    shares: Tensor | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Adapted:
    """Adapt an adapter to a task's unlabelled texts.

    Args:
        adapter: where it begins; it stays as it is.
        texts: the texts with the label texts of the task; their targets are not looked at.
        base: the base.
        recipe: settings.
        labelled: examples whose labels are known; they are part of the clusters, and the fit sees all of them.
        shares: sizes of the classes, (classes,), summing to 1, where the user knows them.
        on_step: called with the number of steps done.

    Raises:
        AdapterError: the adapter was made for another base.
    """
    together = texts if labelled is None else joined(labelled, texts)
    known = None if labelled is None else torch.cat([labelled.targets, torch.full((len(texts),), -1)])
    before = base.read(together, adapter)
    guess = pseudo_labels(before, known=known, shares=shares)
    number = 0 if labelled is None else len(labelled)
    share = min(recipe.share, recipe.most / len(texts))
    kept = [*range(number), *(at for at in guess.surest(share) if at >= number)]
    chosen = replace(together, targets=guess.classes).subset(kept)
    is_fitted = len(set(chosen.targets.tolist())) > 1
    if not is_fitted:
        return Adapted(adapter, before, guess, is_fitted)
    with few_threads(base.number_of_parameters):
        path = fit_path(adapter, chosen, base, recipe.fit, (recipe.fit.steps,), on_step=on_step)
    return Adapted(path.at(recipe.fit.steps, recipe.strength), before, guess, is_fitted)


def joined(one: TaskData, other: TaskData) -> TaskData:
    """Two closed sets of one task's examples as one."""
    return TaskData(one.ids + other.ids, torch.cat([one.targets, other.targets]), one.label_ids)
