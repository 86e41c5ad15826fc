"""How well a generator still knows an expert: errors of what it generates, and a probe of membership.

An error is ‖generated - expert‖ / ‖expert - mean of the known experts‖ over delta weights: 1 is no nearer than that
mean. The probe asks whether an expert's errors tell it from experts that the generator has never seen, as an attack on
who was in the training would: the share of pairs in which the adapter generated for the expert is nearer to it than one
of those is to its own, ties counted half (the area under the ROC curve). 1 is known, .5 cannot be told from never seen,
and 0 is told by being too far off.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.adapters.products import distance
from loragen.conditions.condition import Condition
from loragen.generators.base import Generator


def generated(generator: Generator, conditions: Sequence[Condition]) -> list[Lora]:
    """An adapter a condition, the same noise for each number."""
    return [
        generator.generate(condition, rng=torch.Generator().manual_seed(at))[0].adapter
        for at, condition in enumerate(conditions)
    ]


def mean_of(adapters: Sequence[Lora]) -> Lora:
    """The mean of adapters, on delta weights."""
    return weighted_sum(adapters, [1 / len(adapters)] * len(adapters))


@dataclass(frozen=True, eq=False)
class Ruler:
    """Measures distances from experts."""

    experts: Mapping[str, Lora]
    mean: Lora
    """Of the known experts."""

    def errors(self, expert: str, adapters: Sequence[Lora]) -> list[float]:
        """Errors of adapters that were generated for an expert's task."""
        own = self.experts[expert]
        unit = distance(own, self.mean)
        return [distance(adapter, own) / unit for adapter in adapters]

    def apart(self, expert: str, ones: Sequence[Lora], others: Sequence[Lora]) -> float:
        """Mean distance of adapters from others that were generated for the same descriptions, in the same unit."""
        unit = distance(self.experts[expert], self.mean)
        pairs = [distance(one, other) / unit for one, other in zip(ones, others, strict=True)]
        return sum(pairs) / len(pairs)


def membership(errors: Sequence[float], unseen: Sequence[float]) -> float:
    """Share of pairs in which an error is below one of experts that were never seen; ties count half."""
    pairs = [(one < other) + 0.5 * (one == other) for one in errors for other in unseen]
    return sum(pairs) / len(pairs)
