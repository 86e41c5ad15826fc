"""The registry of strategies: one row each, from which settings, help and updates follow.

A new strategy is one file in `strategies/` and one row of `ROWS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loragen.continual.strategies.distill import Distill, DistillL2
from loragen.continual.strategies.ilora import ILora
from loragen.continual.strategies.naive import Naive
from loragen.continual.strategies.nullspace import NullSpace
from loragen.continual.strategies.osf import OSF
from loragen.continual.strategies.pulled import EWC, L2
from loragen.continual.strategies.replay import Replay
from loragen.continual.strategies.stages import Stages
from loragen.continual.strategy import Strategy
from loragen.errors import ConfigError, shown


@dataclass(frozen=True)
class Row:
    """One strategy."""

    name: str
    about: str
    """A few words for the help."""
    needs: str
    """What of the old experts it reads."""
    source: str
    """Paper, by its arXiv number; "" where it is older than all of them."""
    settings: type[Strategy] | None
    """`None` for training anew, which is no update."""


ROWS = (
    Row("joint", "trains anew on all experts: the upper bound", "experts", "", None),
    Row("naive", "goes on with the new experts alone: the lower bound", "nothing", "", Naive),
    Row("replay", "draws old experts under a byte budget beside the new ones", "experts", "2302.00487", Replay),
    Row("l2", "pulls the network back to where it was", "nothing", "2203.17269", L2),
    Row("ewc", "pulls back what matters for old descriptions", "descriptions", "1612.00796", EWC),
    Row("distill", "goes on making what it made of old descriptions", "descriptions", "2203.17269", Distill),
    Row("l2+distill", "both", "descriptions", "2203.17269", DistillL2),
    Row("ilora", "a fast network learns, a slow mean of it is kept; with replay", "experts", "2402.18865", ILora),
    Row("osf", "keeps the first directions of each linear layer", "nothing", "2504.07097", OSF),
    Row("nullspace", "learns where inputs of old descriptions have nothing", "descriptions", "2604.01152", NullSpace),
    Row("stages", "grows by low-rank stages where tasks are not solved", "nothing", "2509.07945", Stages),
)
JOINT = "joint"


def names() -> tuple[str, ...]:
    """Names of all strategies."""
    return tuple(row.name for row in ROWS)


def row_of(name: str) -> Row:
    """The row of a strategy.

    Raises:
        ConfigError: there is none of that name.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise ConfigError(f"There is no strategy {shown(name)}; known: {', '.join(names())}.")


def strategy_of(name: str, options: Mapping[str, Any]) -> Strategy | None:
    """A strategy with options; `None` for training anew, which has none.

    Raises:
        ConfigError: there is no such strategy, or an option does not fit.
    """
    settings = row_of(name).settings
    if settings is None:
        if options:
            raise ConfigError(f"The strategy {name} has no options; {shown(next(iter(options)))} was given.")
        return None
    return settings.checked({"name": name, **options}, source=f"the strategy {name}")
