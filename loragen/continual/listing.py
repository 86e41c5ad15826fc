"""The strategies as a reader sees them: what each is, what it reads, and its options."""

from dataclasses import dataclass
from typing import Any

from loragen.continual.registry import ROWS, Row
from loragen.recipes.listing import field_docs, type_name


@dataclass(frozen=True)
class StrategyOption:
    """One option of a strategy."""

    name: str
    type: str
    """As it would be written in Python."""
    default: Any
    doc: str


@dataclass(frozen=True)
class StrategyInfo:
    """One strategy."""

    name: str
    about: str
    needs: str
    """What of the old experts it reads: "experts", their "descriptions", or "nothing"."""
    source: str
    """Paper, by its arXiv number; "" where there is none."""
    options: tuple[StrategyOption, ...]


def list_strategies() -> tuple[StrategyInfo, ...]:
    """The strategies that bring generators up to date, each with its options."""
    return tuple(StrategyInfo(row.name, row.about, row.needs, row.source, _options(row)) for row in ROWS)


def _options(row: Row) -> tuple[StrategyOption, ...]:
    if row.settings is None:
        return ()
    docs = field_docs(row.settings)
    return tuple(
        StrategyOption(name, type_name(field.annotation), field.default, docs.get(name, ""))
        for name, field in row.settings.model_fields.items()
        if name != "name"
    )
