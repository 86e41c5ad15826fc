"""The length of a training run and its learning rate."""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Optimiser settings of one run: AdamW, linear warm-up, cosine to zero over all steps."""

    epochs: int
    steps_per_epoch: int
    learning_rate: float
    warmup_fraction: float = 0.1
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.epochs * self.steps_per_epoch


def warmup_cosine(steps: int, warmup_fraction: float) -> Callable[[int], float]:
    """Linear warm-up over the first ``warmup_fraction`` of ``steps``, then a half cosine down to zero."""
    warmup = max(1, round(steps * warmup_fraction))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor
