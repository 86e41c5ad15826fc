"""Likeness of the adapters that a generator makes for different tasks: were they all one, descriptions would not count.

Cosines are of delta weights over all sites together, exact, and computed from products of the factors alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Evidence
from loragen.config import StrictModel
from loragen.evaluation.config import ORACLE
from loragen.evaluation.novelty import RESOLUTION
from loragen.evaluation.workspace import Workspace
from loragen.progress import Progress, silent


class Likeness(StrictModel):
    """Mean cosine between the delta weights of two adapters of one method, each of another task."""

    method: str
    adapters: int
    cosine: float | None
    """Of the adapters as they are; none where fewer than two change anything."""
    centred: float | None
    """Of what is left when their mean is taken away: -1 / (adapters - 1) where that is all there is in common.

    None where the adapters are all one.
    """


def likenesses_of(workspace: Workspace, progress: Progress = silent) -> tuple[Likeness, ...]:
    """Likeness of each generator's adapters of the evaluated tasks, and of the oracles; none unless it is asked for."""
    if workspace.config.condition is None:
        return ()
    found = []
    total = len(workspace.tasks) * (len(workspace.pipelines) + 1)
    progress("cosines", 0, total)
    for name in (*workspace.pipelines, ORACLE):
        found.append(likeness(name, _adapters(workspace, name)))
        progress("cosines", len(workspace.tasks) * len(found), total)
    return tuple(found)


def likeness(method: str, adapters: Sequence[Lora]) -> Likeness:
    """Likeness of some adapters of one method."""
    products = inner_products(adapters)
    smallest = RESOLUTION * float(products.diagonal().max().clamp(min=0).sqrt())
    centred = products - products.mean(0) - products.mean(1, keepdim=True) + products.mean()
    return Likeness(
        method=method,
        adapters=len(adapters),
        cosine=_mean_cosine(products, smallest),
        centred=_mean_cosine(centred, smallest),
    )


def inner_products(adapters: Sequence[Lora]) -> Tensor:
    """Inner products of the delta weights of any adapters of one base, over all sites, float64 (n, n).

    tr((B A)ᵀ B' A') is the sum over the entries of (Bᵀ B') ∘ (A A'ᵀ): no delta weight is ever made.
    """
    total = torch.zeros(len(adapters), len(adapters), dtype=torch.float64)
    for site in dict.fromkeys(site for adapter in adapters for site in adapter.sites):
        holders = [i for i, adapter in enumerate(adapters) if site in adapter.lora_A]
        factors = [adapters[i].scaled_factors(site) for i in holders]
        owner = torch.tensor([i for i, (a, _) in zip(holders, factors, strict=True) for _ in range(len(a))])
        rows = torch.cat([a for a, _ in factors]).double()
        columns = torch.cat([b for _, b in factors], dim=1).double()
        members = torch.nn.functional.one_hot(owner, len(adapters)).double()
        total += members.T @ ((rows @ rows.T) * (columns.T @ columns)) @ members
    return total


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
