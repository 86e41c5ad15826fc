"""What a request's adapter puts on the base: factors, which each row of a batch can have its own of, or gates."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

from loragen.bases.base import Base, Switch
from loragen.bases.linear_sites import Factors

Applied = Factors | Switch
"""Factors under the base's own names, empty for the bare base; or a dynamic composition."""


class _HasApplied(Protocol):
    @property
    def factors(self) -> Applied:
        """What its adapter puts on the base."""
        ...


Of = TypeVar("Of", bound=_HasApplied)


def applied(base: Base, one: Applied) -> AbstractContextManager[None]:
    """Put it on the base while a block runs."""
    return one.put_on(base) if isinstance(one, Switch) else base.using(one)


def batches(works: Sequence[Of]) -> list[list[Of]]:
    """Works that one batch can hold: those with factors together, and those of one composition together."""
    groups: dict[int, list[Of]] = {}
    for work in works:
        groups.setdefault(id(work.factors) if isinstance(work.factors, Switch) else 0, []).append(work)
    return list(groups.values())


def rows_of(base: Base, factors: Sequence[Applied]) -> AbstractContextManager[None]:
    """Put on the base what each row of a batch has; the rows are of one of `batches`."""
    if isinstance(factors[0], Switch):
        return factors[0].put_on(base)
    return base.adapted_rows([one for one in factors if isinstance(one, Mapping)])
