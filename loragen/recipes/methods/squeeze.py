"""LoRA-Squeeze (arXiv 2602.10993): train at a high rank, and lower it after the training or in stages during it.

The ranks and lengths of the stages are our own choice.
"""

import math
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from loragen.adapters.spectrum import Spectrum
from loragen.adapters.squeeze import grown
from loragen.bases.linear_sites import Factors
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import FreeFactors, best_of, copied, run, train_freely
from loragen.values import LARGEST_LAYER, MOST_STEPS


class SqueezeRecipe(ExpertRecipe):
    """Settings of LoRA-Squeeze; ``r`` is the rank that it ends in, and ``steps`` counts the steps of all stages."""

    name: str = "squeeze"
    source_rank: int | None = Field(None, ge=1, le=LARGEST_LAYER)
    """Rank that training begins at, at least ``r``; by default 4 · r. A site that reads fewer features gets as many."""
    stage: Literal["post", "continued", "in"] = "in"
    """``post``: train all steps at the source rank, then squeeze. ``continued``: squeeze before the last steps, and
    train those at rank ``r``. ``in``: squeeze after a third of the steps, to the geometric mean of the two ranks, and
    after two thirds, to ``r``; by default that halves the rank twice."""
    continued_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    """Of the steps, those of ``continued`` at rank ``r``; by default a third."""

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.source_rank is not None and self.source_rank < self.r:
            raise ValueError(f"source_rank is {self.source_rank}, below the r of {self.r}; at least r is wanted")
        if self.continued_steps is not None and self.stage != "continued":
            raise ValueError(f"continued_steps does not apply to stage {self.stage!r}; give 'stage: continued'")
        if self.continued_steps is not None and self.continued_steps >= self.steps:
            raise ValueError(f"continued_steps is {self.continued_steps}; fewer than the {self.steps} steps are wanted")
        return self

    @property
    def stages(self) -> list[tuple[int, int, int]]:
        """Rank, first step and end of every stage."""
        source = 4 * self.r if self.source_rank is None else self.source_rank
        if self.stage == "post":
            return [(source, 0, self.steps)]
        if self.stage == "continued":
            turn = self.steps - (self.continued_steps or max(1, self.steps // 3))
            return [(source, 0, turn), (self.r, turn, self.steps)]
        one, two = max(1, self.steps // 3), max(1, 2 * self.steps // 3)
        return [(source, 0, one), (round(math.sqrt(source * self.r)), one, two), (self.r, two, self.steps)]


def train_squeeze(setting: Setting, recipe: SqueezeRecipe) -> Expert:
    """Train A and B in stages of falling rank, each with a new optimiser and its own warm-up and decay.

    The start is the zoo's, grown to the source rank with random rows of A and zeros in B. Lengths are compared in rank
    r alone: for ``post`` those of the whole training, each squeezed, for others those of the last stage, and the
    squeezed adapter that it begins at.
    """
    rank, _, end = recipe.stages[0]
    start = {site: (a, setting.start.lora_B[site]) for site, a in setting.start.lora_A.items()}
    trainee = _trainee(_grown(start, rank, setting))
    if recipe.stage == "post":
        return train_freely(setting, trainee, finish=lambda factors: squeezed(factors, recipe.r))
    run(setting, trainee, setting.steps[:end])
    for rank, begin, end in recipe.stages[1:-1]:
        if begin < end:
            trainee = _trainee(_lowered(trainee, rank, setting))
            run(setting, trainee, setting.steps[begin:end])
    return _last_stage(setting, recipe, _lowered(trainee, recipe.r, setting))


def squeezed(factors: Factors, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The nearest factors of a rank."""
    return {site: Spectrum.of_factors(a.cpu(), b.cpu()).factors(rank) for site, (a, b) in factors.items()}


def _last_stage(setting: Setting, recipe: SqueezeRecipe, factors: Factors) -> Expert:
    _, begin, end = recipe.stages[-1]
    points = {begin: factors}
    trainee = _trainee(factors)
    lengths = {begin + max(1, round((end - begin) * i / recipe.choices)) for i in range(1, recipe.choices + 1)}

    def keep(step: int) -> None:
        if begin + step in lengths:
            points[begin + step] = copied(trainee.factors())

    run(setting, trainee, setting.steps[begin:end], on_step=keep)
    return best_of(points, setting)


def _trainee(factors: Factors) -> FreeFactors:
    lora_a, lora_b = ({site: pair[i] for site, pair in factors.items()} for i in (0, 1))
    return FreeFactors(Start(lora_a, lora_b))


def _grown(factors: Factors, rank: int, setting: Setting) -> dict[str, tuple[Tensor, Tensor]]:
    """The same updates at a rank, or at the number of features that a site reads if that is less."""
    return {site: grown(a, b, max(len(a), min(rank, a.shape[1])), rng=setting.rng) for site, (a, b) in factors.items()}


def _lowered(trainee: FreeFactors, rank: int, setting: Setting) -> dict[str, tuple[Tensor, Tensor]]:
    """The nearest factors of a rank; where an update is of a lower one, others go on in random rows of A.

    Else zeros would stand on both sides, and have no gradient.
    """
    lowered = {}
    for site, (a, b) in copied(trainee.factors()).items():
        spectrum = Spectrum.of_factors(a, b)
        lowered[site] = spectrum.factors(min(rank, spectrum.rank()))
    return _grown(lowered, rank, setting)
