"""How long and how strongly to fit an adapter to labelled examples, chosen by cross-validation within these.

`fit_chosen` fits an adapter with the choice, where the examples are enough for one; `benchmarks/setfit_rival.py`
compares it with the plain fit.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import accuracy
from loragen.bases.tokenised import TaskData
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, fit_path
from loragen.recipes.few_shot_rivals import rival_scores
from loragen.recipes.few_shot_settings import FitChoice as FitChoice
from loragen.recipes.few_shot_settings import RivalScore
from loragen.recipes.few_shot_settings import Trial as Trial

LEAST = 8
"""Examples of every class that a choice wants. With fewer, a score out of fold has a standard error above .1, and the
folds are fitted to so few examples that they tell little of the fit to all."""
FOLDS = 3
MOST = 384
"""Examples that a choice is made on; where there are more, at most so many over the number of classes of each."""
LENGTHS = (1 / 3, 2 / 3, 1)
"""Lengths compared, as parts of the recipe's own: points of one training, the last of which is the plain fit."""
STRENGTHS = (0.5, 1.0)
"""Parts of the way from the adapter to its fit; that of none, the adapter left alone, is compared too."""


def can_choose(data: TaskData) -> bool:
    """True if every class that occurs has at least `LEAST` examples."""
    return min(Counter(data.targets.tolist()).values(), default=0) >= LEAST


def fit_chosen(
    adapter: Lora,
    data: TaskData,
    base: Base,
    recipe: FewShotRecipe,
    *,
    on_step: Callable[[int], None] | None = None,
    on_trial_step: Callable[[int], None] | None = None,
) -> tuple[Lora, FitChoice | None]:
    """Fit an adapter to examples with the length and strength that cross-validation within them chooses.

    With fewer than `LEAST` examples of a class this is `fit_examples`, and there is no choice. The folds together take
    twice the time of the plain fit in training, as each step of theirs reads two thirds of the examples.

    Args:
        adapter: start of the fit; it stays as it is.
        data: the examples, of at least two classes, with the texts of all labels.
        base: the base.
        recipe: optimiser settings, and the greatest length.
        on_step: called with the number of steps of the last fit, of ``recipe.steps``, that are done.
        on_trial_step: called with the number of steps in folds, of `FOLDS` × ``recipe.steps``, that are done.

    Raises:
        TaskError: the examples are all of one class.
        AdapterError: the adapter was made for another base.
    """
    if len(set(data.targets.tolist())) < 2 or not can_choose(data):
        return fit_examples(adapter, data, base, recipe, on_step=on_step), None
    choice = choose_fit(adapter, data, base, recipe, on_step=on_trial_step)
    if choice.strength == 0:
        return adapter, choice
    path = fit_path(adapter, data, base, recipe, (choice.steps,), on_step=on_step)
    return path.at(choice.steps, choice.strength), choice


def choose_fit(
    adapter: Lora,
    data: TaskData,
    base: Base,
    recipe: FewShotRecipe,
    *,
    on_step: Callable[[int], None] | None = None,
) -> FitChoice:
    """Choose the length and strength with the least cross-entropy to the label texts out of fold.

    Arguments as in `fit_chosen`; every class that occurs has at least `FOLDS` examples.
    """
    some = _at_most(data)
    logits = {setting: torch.empty(len(some), len(some.label_ids)) for setting in _settings(recipe)}
    fold_recipe = recipe.model_copy(update={"batch_size": max(2, round(recipe.batch_size * (1 - 1 / FOLDS)))})
    folds = []
    for done, (train, held_out) in enumerate(_parts(some.targets)):
        told = None if on_step is None else _counted_on(on_step, done * recipe.steps)
        path = fit_path(adapter, some.subset(train), base, fold_recipe, _ends(recipe), on_step=told)
        folds.append((train, held_out, path))
        for setting, found in logits.items():
            found[held_out] = base.read(some.subset(held_out), path.at(*setting)).logits
    trials = tuple(_trial(*setting, found, some.targets) for setting, found in logits.items())
    best = min(trials, key=lambda trial: trial.loss)
    rivals: tuple[RivalScore, ...] = ()
    if base.task_type == "FEATURE_EXTRACTION":
        right = logits[best.steps, best.strength].argmax(1) == some.targets
        adapted = [(train, held_out, path.at(best.steps, best.strength)) for train, held_out, path in folds]
        rivals = rival_scores(some, base, adapted, right)
    return FitChoice(
        steps=best.steps, strength=best.strength, folds=FOLDS, examples=len(some), trials=trials, rivals=rivals
    )


def _settings(recipe: FewShotRecipe) -> list[tuple[int, float]]:
    """Steps and strengths that are compared, the plain fit first: it is taken where others are as good."""
    fits = [(end, strength) for end in reversed(_ends(recipe)) for strength in reversed(STRENGTHS)]
    return [*fits, (0, 0.0)]


def _ends(recipe: FewShotRecipe) -> list[int]:
    return sorted({max(1, round(part * recipe.steps)) for part in LENGTHS})


def _parts(targets: Tensor) -> Iterator[tuple[list[int], list[int]]]:
    """Stratified folds: indices to fit to, and indices that are held out."""
    from sklearn.model_selection import StratifiedKFold

    labels = targets.numpy()
    for train, held_out in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(labels, labels):
        yield train.tolist(), held_out.tolist()


def _at_most(data: TaskData) -> TaskData:
    """The examples, or the first of each class where there are more than `MOST`."""
    if len(data) <= MOST:
        return data
    targets = data.targets.tolist()
    share, met = max(LEAST, MOST // len(set(targets))), Counter[int]()
    kept = []
    for index, target in enumerate(targets):
        met[target] += 1
        if met[target] <= share:
            kept.append(index)
    return data.subset(kept)


def _trial(steps: int, strength: float, logits: Tensor, targets: Tensor) -> Trial:
    return Trial(
        steps=steps,
        strength=strength,
        loss=round(float(F.cross_entropy(logits, targets)), 4),
        accuracy=round(accuracy(logits.argmax(1), targets), 4),
    )


def _counted_on(on_step: Callable[[int], None], done: int) -> Callable[[int], None]:
    return lambda step: on_step(done + step)
