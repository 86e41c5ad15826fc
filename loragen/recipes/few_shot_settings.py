"""Settings of fits to labelled examples, and what was chosen of them, as cards hold them."""

from typing import Literal

from pydantic import Field

from loragen.config import StrictModel
from loragen.values import MOST_EXAMPLES, MOST_PARTS, MOST_STEPS, MOST_TOKENS, Seed

Over = Literal["base", "adapter"]
"""Whose embeddings a classifier reads."""


class FewShotRecipe(StrictModel):
    """Settings of the fit; only the learning rate was compared with others (`benchmarks/fewshot.py`)."""

    steps: int = Field(30, ge=1, le=MOST_STEPS)
    batch_size: int = Field(32, ge=2, le=MOST_EXAMPLES)
    """Examples of a step, all where there are fewer."""
    learning_rate: float = Field(1e-2, gt=0)
    contrast_weight: float = Field(0.0, ge=0)
    """Weight of supervised contrast beside the label-text loss."""
    window: int = Field(10, ge=1, le=MOST_STEPS)
    """The mean over so many last steps is the adapter."""
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    """Tokens of a text."""
    clip_rows: float | None = Field(None, gt=0)
    """Most that the norm of a row of the update may become, as a multiple of the mean row norm of the adapter that the
    fit begins at, site by site; `None` sets no limit. See `recipes.row_clip`."""
    seed: Seed = 0


class RivalScore(StrictModel):
    """A classifier that is fitted to the labels of the other folds, beside the label texts of the fitted adapter."""

    method: str
    over: Over
    accuracy: float = Field(ge=0, le=1)
    """Share of held-out examples that it is right on."""
    error: float = Field(ge=0)
    """Standard error of the difference to the label texts' accuracy, on the same examples."""


class Trial(StrictModel):
    """A length and a strength of the fit, on examples that it has not seen."""

    steps: int = Field(ge=0, le=MOST_STEPS)
    strength: float = Field(ge=0, le=1)
    loss: float = Field(ge=0)
    """Cross-entropy to the label texts, in nats."""
    accuracy: float = Field(ge=0, le=1)


class FitChoice(StrictModel):
    """Length and strength of a fit, chosen by cross-validation, with the scores out of fold that spoke for them."""

    steps: int = Field(ge=0, le=MOST_STEPS)
    strength: float = Field(ge=0, le=1)
    """The adapter plus this part of the way to its fit; 0 leaves it alone."""
    folds: int = Field(ge=2, le=MOST_PARTS)
    examples: int = Field(ge=2, le=MOST_EXAMPLES)
    """Number of those that were held out in turn."""
    trials: tuple[Trial, ...]
    rivals: tuple[RivalScore, ...] = ()
    """Classifiers of the same examples, out of the same folds; for text encoders alone."""

    @property
    def chosen(self) -> Trial:
        """The trial with the steps and strength that were chosen."""
        return next(one for one in self.trials if (one.steps, one.strength) == (self.steps, self.strength))
