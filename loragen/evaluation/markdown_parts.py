"""Parts of Markdown that every table of a report is made of."""

from collections.abc import Sequence

from loragen.evaluation.statistics import Interval


def span(interval: Interval, *, digits: int = 3, signed: bool = False) -> str:
    """A number with its interval."""
    return format(interval, f"{'+' if signed else ''}.{digits}f")


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """Rows of text under their heads."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in body)])
