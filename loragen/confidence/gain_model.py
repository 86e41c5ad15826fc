"""A linear model of the gain of an adapter, from figures that can be had before anyone has labels."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from loragen.confidence.expected import COVERAGE, ExpectedGain, Knowledge
from loragen.config import StrictModel
from loragen.values import MOST_EXAMPLES

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Ridge penalties on standardised figures that are compared."""


class Figure(StrictModel):
    """One figure that a model reads, with its place among the tasks that the model was fitted on."""

    name: str = Field(min_length=1, max_length=60)
    mean: float
    deviation: float = Field(gt=0)
    least: float
    most: float
    """Beyond these a figure counts as the least or the most: nothing is known of such tasks."""
    weight: float
    """Gain for each deviation."""


class GainModel(StrictModel):
    """Expected gain = offset + Σ weight · standardised figure, with what the gains of left-out tasks differed by."""

    figures: tuple[Figure, ...]
    offset: float = Field(ge=-1, le=1)
    below: float = Field(le=0)
    """A tenth of the left-out tasks gained less than expected by this or more."""
    above: float = Field(ge=0)
    """A tenth of them gained more than expected by this or more."""
    tasks: int = Field(ge=1, le=MOST_EXAMPLES)
    correlation: float = Field(ge=-1, le=1)
    """Rank correlation of expected and realised gains, where each family was left out of the fit in turn."""

    @model_validator(mode="after")
    def _has_distinct_names(self) -> Self:
        if len({figure.name for figure in self.figures}) < len(self.figures):
            raise ValueError("a figure is named twice")
        return self

    def expect(self, figures: Mapping[str, float], knows: Knowledge) -> ExpectedGain:
        """The expected gain of a task with these figures, among which are those that the model reads."""
        gain = self.offset
        for figure in self.figures:
            value = min(max(figures[figure.name], figure.least), figure.most)
            gain += figure.weight * (value - figure.mean) / figure.deviation
        gain, low, high = (round(min(max(one, -1.0), 1.0), 4) for one in (gain, gain + self.below, gain + self.above))
        return ExpectedGain(gain=gain, low=low, high=high, knows=knows)

    @classmethod
    def fit(
        cls, rows: Sequence[Mapping[str, float]], gains: Sequence[float], families: Sequence[str]
    ) -> tuple[Self, list[float]]:
        """Fit a model to the figures (all of the same names) and gains of tasks, of at least two families.

        Returns:
            The model, fitted to all tasks, and for each task the gain that a model expects of it which has seen no
            task of its family. The penalty is the one with the least squared error of those; the interval is theirs.
        """
        import torch

        names = tuple(rows[0])
        x = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float64)
        y = torch.tensor(gains, dtype=torch.float64)
        by_penalty = {penalty: _left_out(x, y, families, penalty) for penalty in PENALTIES}
        penalty = min(by_penalty, key=lambda one: float((by_penalty[one] - y).square().mean()))
        expected = by_penalty[penalty]
        mean, deviation, weights, offset = _ridge(x, y, penalty)
        residuals = y - expected
        tail = torch.tensor([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], dtype=torch.float64)
        below, above = torch.quantile(residuals, tail).tolist()
        figures = tuple(
            Figure(
                name=name,
                mean=_short(mean[at]),
                deviation=max(_short(deviation[at]), 1e-6),
                least=_short(x[:, at].min()),
                most=_short(x[:, at].max()),
                weight=_short(weights[at]),
            )
            for at, name in enumerate(names)
        )
        made = cls(
            figures=figures,
            offset=_short(offset),
            below=min(_short(below), 0.0),
            above=max(_short(above), 0.0),
            tasks=len(rows),
            correlation=_short(rank_correlation(expected, y)),
        )
        return made, expected.tolist()


def rank_correlation(one: "Tensor", other: "Tensor") -> float:
    """Spearman's correlation; 0 where either is constant."""
    from scipy.stats import spearmanr

    if bool((one == one[0]).all()) or bool((other == other[0]).all()):
        return 0.0
    return float(spearmanr(one.numpy(), other.numpy()).statistic)


def _ridge(x: "Tensor", y: "Tensor", penalty: float) -> "tuple[Tensor, Tensor, Tensor, Tensor]":
    """Mean and deviation of the figures, their weights, and the offset."""
    import torch

    mean, deviation = x.mean(0), x.std(0, correction=0).clamp(min=1e-6)
    z, offset = (x - mean) / deviation, y.mean()
    gram = z.T @ z + penalty * torch.eye(z.shape[1], dtype=z.dtype)
    return mean, deviation, torch.linalg.solve(gram, z.T @ (y - offset)), offset


def _left_out(x: "Tensor", y: "Tensor", families: Sequence[str], penalty: float) -> "Tensor":
    import torch

    expected = torch.empty_like(y)
    for family in dict.fromkeys(families):
        out = torch.tensor([one == family for one in families])
        mean, deviation, weights, offset = _ridge(x[~out], y[~out], penalty)
        least, most = x[~out].min(0).values, x[~out].max(0).values
        expected[out] = offset + (x[out].clamp(least, most) - mean) / deviation @ weights
    return expected


def _short(value: "Tensor | float") -> float:
    return round(float(value), 5)
