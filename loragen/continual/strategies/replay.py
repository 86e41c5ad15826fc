"""Keeps some old experts under a budget of bytes and draws as many of them as of the new ones."""

from typing import Literal, final

import torch
from pydantic import Field

from loragen.continual.session import Session
from loragen.continual.strategy import Begun, Files, Strategy, reservoir
from loragen.errors import ConfigError
from loragen.generators.learner import Learner


@final
class Replay(Strategy):
    """Rehearsal of old experts."""

    name: Literal["replay"] = "replay"
    budget: int = Field(1_000_000, ge=0, le=10**11)
    """Bytes of the experts kept; they are drawn from all as they passed by (reservoir sampling)."""
    weight: float = Field(1.0, ge=0)
    """Of the loss on them; that on new experts counts 1."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, and those that were kept."""
        return Begun(Session(learner, replayed=buffered(learner, self.budget), weight=self.weight))


def buffered(learner: Learner, budget: int) -> tuple[int, ...]:
    """Rows of old experts that a buffer of some bytes holds.

    Raises:
        ConfigError: the zoo holds no old expert, or the buffer not one.
    """
    capacity = budget // learner.bytes_of_one
    if not learner.seen:
        raise ConfigError(
            "The zoo holds no expert that the generator has seen, so there is none to replay; distill needs their "
            "descriptions alone."
        )
    if not capacity:
        raise ConfigError(f"The budget of {budget:,} bytes holds no expert; one takes {learner.bytes_of_one:,}.")
    return reservoir(learner.seen, capacity, rng=torch.Generator().manual_seed(learner.seed))
