"""Asks the old generator for what it makes of old descriptions, and goes on making it: no old weights are needed.

Prediction distillation of rehearsal-free learning (Smith et al. 2022, arXiv 2203.17269), with descriptions for inputs
and adapters for predictions; with a pull to the old network beside it.
"""

from typing import Literal, final

from pydantic import Field

from loragen.continual.session import Session
from loragen.continual.strategy import Begun, Files, Strategy, squared_distance
from loragen.generators.learner import Learner


@final
class Distill(Strategy):
    """Imitation of the old generator."""

    name: Literal["distill"] = "distill"
    weight: float = Field(1.0, ge=0)
    """Of the loss on what it made; that on new experts counts 1."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, and what the old generator makes of old descriptions."""
        return Begun(Session(learner, imitates=True, weight=self.weight))


@final
class DistillL2(Strategy):
    """Imitation of the old generator, and a pull to its network."""

    name: Literal["l2+distill"] = "l2+distill"
    weight: float = Field(1.0, ge=0)
    """Of the loss on what it made; that on new experts counts 1."""
    pull: float = Field(0.1, ge=0)
    """λ of λ ‖θ - θ₀‖²."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, what the old generator makes of old descriptions, and the pull."""
        distance = squared_distance(learner.network)
        penalty = lambda: self.pull * distance()  # noqa: E731
        return Begun(Session(learner, imitates=True, weight=self.weight, penalty=penalty, decays=False))
