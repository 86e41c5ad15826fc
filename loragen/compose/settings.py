"""What all methods' settings have in common, and what a method is made from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor

from loragen.bases.base import Base
from loragen.compose.experts import Experts
from loragen.config import StrictModel
from loragen.progress import Progress, silent
from loragen.tasks.examples import Examples
from loragen.values import MOST_EXAMPLES, MOST_STEPS, MOST_TOKENS


class ComposeSettings(StrictModel):
    """Settings of a method; those that are not trained have no others in common."""


class TrainedSettings(ComposeSettings):
    """Settings of a method that is trained on labelled texts of the experts' tasks, the experts frozen."""

    steps: int = Field(150, ge=1, le=MOST_STEPS)
    learning_rate: float = Field(3e-3, gt=0, le=1)
    batch_size: int = Field(32, ge=2, le=MOST_EXAMPLES)
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    """Tokens of a text."""
    labels: Literal["union", "own"] = "union"
    """Texts choose among the labels of all tasks, as they do where nothing names their task, or of their own task."""


@final
@dataclass(frozen=True, eq=False)
class Making:
    """What a composition is made from."""

    experts: Experts
    open_base: Callable[[], Base]
    """Loads the base, which methods that look at weights alone do not need."""
    examples: tuple[Examples, ...] | None = None
    """Labelled texts of each expert's task."""
    similarities: Tensor | None = None
    """Cosine of each expert's description with that of the task, (n,)."""
    seed: int = 0
    progress: Progress = field(default=silent)

    @cached_property
    def base(self) -> Base:
        """The base."""
        return self.open_base()

    def rng(self) -> torch.Generator:
        """A random source, the same each time."""
        return torch.Generator().manual_seed(self.seed)

    def given_examples(self) -> tuple[Examples, ...]:
        """The labelled texts, which the registry has seen to."""
        assert self.examples is not None
        return self.examples


@final
@dataclass(frozen=True, eq=False)
class Made:
    """A composition that was made."""

    experts: Experts
    weights: Sequence[float] | None = None
    """Of each expert, where the composition is static."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the gates, by name, where it is dynamic."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What was met on the way, such as the share of texts that an expert helps."""
