"""Fits an adapter to a few labelled examples of its task: B alone, for some steps, from where the adapter stands.

What that is worth, beside beginning at one LoRA for all tasks, `benchmarks/fewshot.py` measures. The rank stays, and so
does the space that the update reads from.
"""

from collections.abc import Callable, Sequence

import torch
from pydantic import Field

from loragen.adapter import Adapter
from loragen.backbone import Backbone
from loragen.config import StrictModel
from loragen.errors import TaskError
from loragen.experts import AdapterObjective, Start, trajectory
from loragen.task_vectors import Support
from loragen.taskdata import TaskData
from loragen.tasks import Examples


class FewShotRecipe(StrictModel):
    """How an adapter is fitted to examples; of its settings only the rate was compared (`benchmarks/fewshot.py`)."""

    steps: int = Field(30, ge=1)
    batch_size: int = Field(32, ge=2)
    """Examples of a step, all where there are fewer."""
    learning_rate: float = Field(1e-2, gt=0)
    contrast_weight: float = Field(0.0, ge=0)
    """Weight of supervised contrast beside the label-text loss."""
    window: int = Field(10, ge=1)
    """The mean over so many last steps is the adapter."""
    max_length: int = Field(64, ge=8)
    """Tokens of a text."""
    seed: int = 0


def examples_of(support: Support, labels: Sequence[str] | None, backbone: Backbone, *, max_length: int) -> TaskData:
    """Labelled examples made ready, with the texts of the labels named, or else of those that occur.

    Raises:
        TaskError: they have no labels, or one that is not among those named.
    """
    if support.labels is None:
        raise TaskError("The examples have no labels; fitting wants a column 'label' beside 'text'.")
    names = tuple(dict.fromkeys(support.labels)) if labels is None else tuple(labels)
    if unknown := [label for label in support.labels if label not in names]:
        raise TaskError(f"An example has the label {unknown[0]!r}, which is not among those named: {', '.join(names)}.")
    examples = Examples(support.texts, support.pairs, tuple(names.index(label) for label in support.labels))
    return TaskData(
        backbone.inputs(examples, max_length=max_length),
        torch.tensor(examples.labels),
        backbone.outputs(names, max_length=max_length),
    )


def fit_examples(
    adapter: Adapter,
    data: TaskData,
    backbone: Backbone,
    recipe: FewShotRecipe,
    *,
    on_step: Callable[[int], None] | None = None,
) -> Adapter:
    """Train an adapter's B on a few labelled examples, over its own A, which is made orthonormal first.

    Args:
        adapter: where it begins; untouched.
        data: the examples, at least one of two different classes, with the texts of all labels.
        backbone: the base.
        recipe: length and optimiser settings.
        on_step: called with the number of steps done.

    Raises:
        TaskError: the examples are all of one class, from which nothing can be told apart.
        AdapterError: the adapter was made for another base.
    """
    if len(set(data.targets.tolist())) < 2:
        raise TaskError("The examples are all of one label; give some of at least two.")
    start = Start.at(adapter)
    objective = AdapterObjective(backbone, start, train_a=False, contrast_weight=recipe.contrast_weight)
    rng = torch.Generator().manual_seed(recipe.seed)
    steps = list(data.batches(recipe.steps, min(recipe.batch_size, len(data.ids)), rng=rng))
    points = trajectory(objective, steps, recipe.learning_rate, seed=recipe.seed, on_step=on_step)
    return Adapter.from_factors(
        start.lora_A,
        {site: at[-recipe.window :].mean(0) for site, at in points.items()},
        base_model_name_or_path=adapter.settings.base_model_name_or_path,
        task_type=adapter.settings.task_type,
        fan_in_fan_out=adapter.settings.fan_in_fan_out,
    )
