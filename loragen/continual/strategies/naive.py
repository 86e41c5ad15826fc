"""Goes on with the new experts alone: the lower bound of what is remembered."""

from typing import Literal, final

from loragen.continual.session import Session
from loragen.continual.strategy import Begun, Files, Strategy
from loragen.generators.learner import Learner


@final
class Naive(Strategy):
    """No options."""

    name: Literal["naive"] = "naive"

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, and nothing beside them."""
        return Begun(Session(learner))
