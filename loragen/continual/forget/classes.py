"""Forgets classes of an adapter's task on request: adapter and edit as one new adapter, and the edit apart."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.adapters.squeeze import squeeze
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.continual.forget.class_fit import fit_class_edit
from loragen.continual.forget.settings import ClassSettings
from loragen.errors import AdapterError, ConfigError, TaskError
from loragen.inference import Adapter, opened_adapter
from loragen.progress import Progress, silent
from loragen.recipes.few_shot import prepare_examples
from loragen.tasks.examples import Examples
from loragen.tasks.words import listed
from loragen.training.threads import few_threads

EDIT = "edit"
"""Folder of the edit in the folder of an adapter that has forgotten classes."""
KEPT_ENERGY = 0.9999
"""Share of the squared norm of adapter and edit together that a site's rank keeps, unless a rank is asked for."""
EDITING = "editing the adapter"
MOST_HALVINGS = 8
"""Of the penalty, where with it nothing would change."""
MAX_LENGTH = 64
"""Tokens of a text in training."""


@dataclass(frozen=True)
class Accuracies:
    """Shares of held-out examples that are right, of the forgotten classes and of the others, among all labels."""

    forgotten: float
    remaining: float


@dataclass(frozen=True, eq=False)
class ForgottenClasses:
    """An adapter that has forgotten some classes."""

    adapter: Adapter
    """With the edit in it; saving it keeps the edit apart in the folder ``edit``."""
    classes: tuple[str, ...]
    zero: tuple[str, ...]
    """Sites that the edit leaves exactly as they were."""
    before: Accuracies
    after: Accuracies
    examples: int
    """Held-out ones that accuracies are taken on."""

    @property
    def drop(self) -> float:
        """Fall of the accuracy on the forgotten classes."""
        return self.before.forgotten - self.after.forgotten

    @property
    def h(self) -> float:
        """The harmonic mean of that fall and of the accuracy on the others after it, GS-LoRA's H."""
        return harmonic(self.drop, self.after.remaining)

    @property
    def attainable_h(self) -> float:
        """H if all were forgotten of these classes and nothing of the others."""
        return harmonic(self.before.forgotten, self.before.remaining)

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the adapter."""
        return {
            "classes": list(self.classes),
            "zero": list(self.zero),
            "examples": self.examples,
            "before": asdict(self.before),
            "after": asdict(self.after),
            "drop": round(self.drop, 4),
            "h": round(self.h, 4),
            "attainable_h": round(self.attainable_h, 4),
        }


def harmonic(drop: float, remaining: float) -> float:
    """2 · drop · remaining / (drop + remaining), or 0 where nothing was forgotten."""
    return 2 * drop * remaining / (drop + remaining) if drop > 0 and remaining > 0 else 0.0


def forget_classes(
    adapter: Adapter | Path | str,
    examples: Examples | Path | str,
    classes: Sequence[str],
    *,
    rank: int | None = None,
    settings: ClassSettings | None = None,
    base: str | None = None,
    progress: Progress = silent,
) -> ForgottenClasses:
    """Take classes of its task out of an adapter by a low-rank edit, trained on labelled examples.

    Args:
        adapter: an adapter or its folder; it stays as it is.
        examples: of all classes, those to forget among them; a part of them judges the edit and takes no part in it.
        classes: names of the labels to forget.
        rank: largest rank of a site of the new adapter; by default what keeps nearly all of adapter and edit.
        settings: of the edit.
        base: stands in for the base that the adapter names.
        progress: called with the stage, the steps done and their total.

    Raises:
        TaskError: the examples have no labels, or too few of them are of the classes to forget or of the others.
        ConfigError: a class is none of the labels, or the base is not at hand.
        AdapterError: the adapter does not fit its base, or no site was changed.
    """
    chosen, opened = settings or ClassSettings(), opened_adapter(adapter, base)
    read = examples if isinstance(examples, Examples) else Examples.from_file(examples, opened.labels or None)
    numbers = _numbers(classes, read)
    loaded = opened.opened_base
    data = prepare_examples(read, loaded, max_length=MAX_LENGTH)
    parts = _split(data, numbers, chosen)
    with few_threads(loaded.number_of_parameters):
        factors = _trained(opened.lora, parts, loaded, chosen, progress)
        edit = _edit(opened.lora, loaded, factors)
        whole = weighted_sum([opened.lora, edit], [1.0, 1.0])
        new = squeeze(whole, rank=rank, energy=KEPT_ENERGY if rank is None else None).adapter
        before, after = (_accuracies(one, parts, loaded) for one in (opened.lora, new))
    files = {f"{EDIT}/{name}": content for name, content in edit.files().items()}
    made = replace(opened, lora=new, labels=read.label_names, saved_along={**opened.saved_along, **files})
    zero = tuple(site for site in opened.lora.sites if site not in edit.sites)
    held_out = len(parts.judged_forget) + len(parts.judged_remain)
    return ForgottenClasses(made, tuple(classes), zero, before, after, held_out)


def _trained(
    adapter: Lora, parts: "_Parts", base: Base, settings: ClassSettings, progress: Progress
) -> dict[str, tuple[Tensor, Tensor]]:
    """Factors of the edit by site, with a penalty at which some site changes.

    Raises:
        AdapterError: none does.
    """
    steps = settings.steps
    for _ in range(1 + MOST_HALVINGS):
        factors = fit_class_edit(
            adapter,
            parts.forget,
            parts.remain,
            base,
            settings,
            on_step=lambda step: progress(EDITING, step, steps),
        )
        if factors:
            return factors
        settings = settings.model_copy(update={"penalty": settings.penalty / 2})
    raise AdapterError("The edit left every site as it was: the adapter cannot tell these classes from a guess.")


@dataclass(frozen=True, eq=False)
class _Parts:
    """Examples of the forgotten classes and of the others, to train on and to judge by."""

    forget: TaskData
    remain: TaskData
    judged_forget: TaskData
    judged_remain: TaskData


def _split(data: TaskData, numbers: Sequence[int], settings: ClassSettings) -> _Parts:
    """Divide examples at random, those of both kinds in the same shares.

    Raises:
        TaskError: there are too few of a kind.
    """
    rng, found = torch.Generator().manual_seed(settings.seed), []
    is_gone = torch.isin(data.targets, torch.tensor(list(numbers)))
    for name, mask in (("of the classes to forget", is_gone), ("of the other classes", ~is_gone)):
        rows = mask.nonzero()[:, 0]
        judged = int(settings.held_out * len(rows))
        if judged < 1 or len(rows) - judged < 2:
            raise TaskError(
                f"The examples hold {len(rows)} {name}; enough to train on and to judge by are wanted, at least 4."
            )
        order = rows[torch.randperm(len(rows), generator=rng)].tolist()
        found.append((data.subset(order[judged:]), data.subset(order[:judged])))
    (forget, judged_forget), (remain, judged_remain) = found
    return _Parts(forget, remain, judged_forget, judged_remain)


def _numbers(classes: Sequence[str], examples: Examples) -> list[int]:
    """Positions of classes among the labels.

    Raises:
        ConfigError: one is none of the labels, or no two classes would remain.
    """
    names = examples.label_names
    if strange := [name for name in classes if name not in names]:
        raise ConfigError(f"{listed(strange)} is no label of the examples; they have {listed(names)}.")
    if not classes or len(names) - len(set(classes)) < 2:
        raise ConfigError(
            f"{len(set(classes))} of {len(names)} classes are to be forgotten; at least 1 to forget and 2 that remain "
            "were wanted."
        )
    return [names.index(name) for name in classes]


def _edit(adapter: Lora, base: Base, factors: dict[str, tuple[Tensor, Tensor]]) -> Lora:
    """An edit as an adapter of its own, under the names that the sites have in the adapter."""
    names = dict(zip(base.factors_of(adapter), adapter.sites, strict=True))
    settings = adapter.settings
    return Lora.from_factors(
        {names[site]: a for site, (a, _) in factors.items()},
        {names[site]: b for site, (_, b) in factors.items()},
        base_model_name_or_path=settings.base,
        task_type=settings.task_type,
        fan_in_fan_out=settings.fan_in_fan_out,
    )


def _accuracies(adapter: Lora, parts: _Parts, base: Base) -> Accuracies:
    def accuracy(data: TaskData) -> float:
        read = base.read(data, adapter)
        return float((read.logits.argmax(1).cpu() == read.targets.cpu()).double().mean())

    return Accuracies(accuracy(parts.judged_forget), accuracy(parts.judged_remain))
