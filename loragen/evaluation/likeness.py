"""Likeness of the adapters that a generator makes for different tasks: were they all one, descriptions would not count.

Cosines are of delta weights over all sites together, exact, and computed from products of the factors alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.adapters.products import inner_products
from loragen.conditions.condition import Evidence
from loragen.config import StrictModel
from loragen.evaluation.config import ORACLE
from loragen.evaluation.novelty import RESOLUTION
from loragen.evaluation.workspace import Workspace
from loragen.progress import Progress, silent


class Likeness(StrictModel):
    """Mean cosine between the delta weights of two adapters of one method, each of another task."""

    method: str
    tasks: int
    cosine: float | None
    """Of the adapters as they are; none where fewer than two change anything."""
    centred: float | None
    """Of what is left when the mean of the experts is taken away; none where fewer than two differ from it.

    It is not their own mean, without which all adapters look alike: their cosines would sum to a constant.
    """


def likenesses_of(workspace: Workspace, progress: Progress = silent) -> tuple[Likeness, ...]:
    """Likeness of each generator's adapters of the evaluated tasks, and of the oracles; none unless it is asked for."""
    if workspace.config.condition is None:
        return ()
    experts = [workspace.experts.adapter(expert) for expert in workspace.experts.ids]
    mean, found = weighted_sum(experts, [1 / len(experts)] * len(experts)), []
    total = len(workspace.tasks) * (len(workspace.pipelines) + 1)
    progress("cosines", 0, total)
    for name in (*workspace.pipelines, ORACLE):
        found.append(likeness(name, _adapters(workspace, name), mean))
        progress("cosines", len(workspace.tasks) * len(found), total)
    return tuple(found)


def likeness(method: str, adapters: Sequence[Lora], mean: Lora) -> Likeness:
    """Likeness of some adapters of one method, as they are and without the mean of the experts."""
    every = inner_products([*adapters, mean])
    smallest = RESOLUTION * float(every.diagonal().max().clamp(min=0).sqrt())
    products, with_mean = every[:-1, :-1], every[:-1, -1]
    centred = products - with_mean - with_mean[:, None] + every[-1, -1]
    return Likeness(
        method=method,
        tasks=len(adapters),
        cosine=_mean_cosine(products, smallest),
        centred=_mean_cosine(centred, smallest),
    )


def _mean_cosine(products: Tensor, smallest: float) -> float | None:
    """Mean over pairs of adapters whose norms are above the smallest that counts."""
    norms = products.diagonal().clamp(min=0).sqrt()
    there = norms > smallest
    number = int(there.sum())
    if number < 2:
        return None
    cosines = products[there][:, there] / torch.outer(norms[there], norms[there])
    return float((cosines.sum() - cosines.diagonal().sum()) / (number * (number - 1)))


def _adapters(workspace: Workspace, name: str) -> list[Lora]:
    if name == ORACLE:
        return [workspace.oracles.adapter(task.id) for task in workspace.tasks]
    pipeline, seed = workspace.pipelines[name], workspace.config.seeds[0]
    return [pipeline.generate(Evidence(task.description), seed=seed)[0].adapter for task in workspace.tasks]
