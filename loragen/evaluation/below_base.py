"""Tasks on which an adapter does harm: how many, how much at worst, and what a fall-back to the base saves."""

from collections.abc import Iterator, Mapping, Sequence

from loragen.config import StrictModel
from loragen.evaluation.score_tables import ScoreTables, sign_of
from loragen.evaluation.statistics import TIE

MARGIN = 0.01
"""A task counts as below the base from more than this difference on."""
FALL_BACK = ", with fall-back"
"""Names of methods end so that give out a safer adapter, or none, where little is expected of their own."""


class BelowBase(StrictModel):
    """Tasks on which scores are below the base's."""

    tasks: int
    """All tasks that were counted."""
    share: float
    """Those that are below by more than the margin."""
    lowest: float
    """The lowest score less the base's."""
    lowest_task: str


class BelowRow(StrictModel):
    """One method on one group of tasks, as it is and with a fall-back."""

    group: str
    method: str
    score: str
    below: BelowBase
    with_fall_back: BelowBase | None = None


def below_base(scores: Mapping[str, float], base: Mapping[str, float], *, margin: float = MARGIN) -> BelowBase:
    """Count the tasks on which scores are below the base's.

    Args:
        scores: task → score, the mean over seeds; more is better. At least one.
        base: task → the base's score, for all those tasks.
        margin: differences up to this do not count.
    """
    differences = {task: score - base[task] for task, score in scores.items()}
    lowest = min(differences, key=lambda task: differences[task])
    count = sum(difference < -margin - TIE for difference in differences.values())
    return BelowBase(
        tasks=len(differences),
        share=count / len(differences),
        lowest=differences[lowest],
        lowest_task=lowest,
    )


def below_rows(
    tables: ScoreTables, groups: Mapping[str, Sequence[str]], *, score: str, base: str
) -> Iterator[BelowRow]:
    """A row for each method on each group; methods with a fall-back stand beside those that they go back on."""
    methods = tables.methods()
    for group, tasks in groups.items():
        means = {method: _means(tables, method, tasks, score) for method in methods}
        for method in methods:
            if method == base or (method.endswith(FALL_BACK) and method.removesuffix(FALL_BACK) in means):
                continue
            after = means.get(method + FALL_BACK)
            yield BelowRow(
                group=group,
                method=method,
                score=score,
                below=below_base(means[method], means[base]),
                with_fall_back=below_base(after, means[base]) if after else None,
            )


def _means(tables: ScoreTables, method: str, tasks: Sequence[str], score: str) -> dict[str, float]:
    means = sign_of(score) * tables.whole(method, tasks, score).mean(1)
    return dict(zip(tasks, means.tolist(), strict=True))
