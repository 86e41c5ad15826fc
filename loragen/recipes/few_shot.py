"""Fitting of an adapter to a few labelled examples of its task: some steps of its B alone.

The rank stays, and so does the space that the update reads from. `benchmarks/fewshot.py` compares this with a fit that
begins at one LoRA for all tasks.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.errors import TaskError
from loragen.recipes.expert import AdapterObjective, Start, trajectory
from loragen.recipes.few_shot_settings import FewShotRecipe as FewShotRecipe
from loragen.recipes.row_clip import RowClip
from loragen.tasks.examples import Examples
from loragen.training.threads import few_threads


def prepare_examples(examples: Examples, base: Base, *, max_length: int) -> TaskData:
    """Labelled examples made ready for a base.

    Raises:
        TaskError: they have no labels.
    """
    if examples.labels is None:
        raise TaskError("The examples have no labels; fitting wants a column 'label' beside 'text'.")
    return base.prepare(examples, max_length=max_length)


@dataclass(frozen=True)
class FitPath:
    """The way of a fit from the adapter that it began at: means of windows that end at several lengths."""

    adapter: Lora
    """Where it began."""
    start: Start
    """The same delta weights over an orthonormal A."""
    means: Mapping[int, Mapping[str, Tensor]]
    """Steps → site → mean of B over the window that ends there, (out, r)."""

    def at(self, steps: int, strength: float = 1.0) -> Lora:
        """The adapter after some steps, or on the straight line to it; strength 0 is the adapter where it began."""
        if strength == 0:
            return self.adapter
        mean, begun = self.means[steps], self.start.lora_B
        return Lora.from_factors(
            self.start.lora_A,
            mean if strength == 1 else {site: torch.lerp(begun[site], end, strength) for site, end in mean.items()},
            base_model_name_or_path=self.adapter.settings.base,
            task_type=self.adapter.settings.task_type,
            fan_in_fan_out=self.adapter.settings.fan_in_fan_out,
        )


def fit_path(
    adapter: Lora,
    data: TaskData,
    base: Base,
    recipe: FewShotRecipe,
    ends: Iterable[int],
    *,
    on_step: Callable[[int], None] | None = None,
) -> FitPath:
    """`fit_examples` with windows at several lengths of the same training; ``ends`` are numbers of steps."""
    if len(set(data.targets.tolist())) < 2:
        raise TaskError("The examples are all of one label; give some of at least two.")
    start = Start.at(adapter)
    objective = AdapterObjective(base, start, train_a=False, contrast_weight=recipe.contrast_weight)
    rng = torch.Generator().manual_seed(recipe.seed)
    steps = list(data.batches(recipe.steps, min(recipe.batch_size, len(data.ids)), rng=rng))
    guard = None if recipe.clip_rows is None else RowClip.of(start, recipe.clip_rows)
    with few_threads(base.number_of_parameters):
        points = trajectory(objective, steps, recipe.learning_rate, seed=recipe.seed, on_step=on_step, guard=guard)
    means = {end: {site: at[max(0, end - recipe.window) : end].mean(0) for site, at in points.items()} for end in ends}
    return FitPath(adapter, start, means)


def fit_examples(
    adapter: Lora,
    data: TaskData,
    base: Base,
    recipe: FewShotRecipe,
    *,
    on_step: Callable[[int], None] | None = None,
) -> Lora:
    """Train an adapter's B on a few labelled examples, over its own A, which is made orthonormal first.

    Args:
        adapter: start of the fit; it stays as it is.
        data: the examples, at least one of two different classes, with the texts of all labels.
        base: the base.
        recipe: length and optimiser settings.
        on_step: called with the number of steps done.

    Raises:
        TaskError: the examples are all of one class, from which nothing can be told apart.
        AdapterError: the adapter was made for another base.
    """
    return fit_path(adapter, data, base, recipe, (recipe.steps,), on_step=on_step).at(recipe.steps)
