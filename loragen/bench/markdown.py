"""The report of a comparison of recipes to read, as Markdown."""

from collections.abc import Sequence

from loragen.bench.cells import BenchCell
from loragen.bench.config import RecipeBenchConfig
from loragen.bench.summary import BenchSummary, CurvePoint, RecipeSummary
from loragen.escaping import markdown as escaped
from loragen.escaping import markdown_code
from loragen.evaluation.markdown_parts import markdown_table, span
from loragen.evaluation.report_model import TITLES
from loragen.evaluation.statistics import Interval


def markdown(config: RecipeBenchConfig, summary: BenchSummary, cells: Sequence[BenchCell]) -> str:
    """A report as Markdown."""
    parts = [
        "# Recipes",
        _about(config, summary),
        f"## Each at its own best rate\n\n{_best_table(summary)}",
        _notes(summary),
        f"## All at one rate\n\n{_shared(summary)}",
        f"## {_title(summary)} by learning rate\n\n{_curves(summary)}",
        f"## By task\n\n{_by_task(config, summary)}",
        f"## Time\n\n{_time(cells)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def rate_text(rate: float | None) -> str:
    """A learning rate as tables show it."""
    return "" if rate is None else f"{rate:.2g}"


def _title(summary: BenchSummary) -> str:
    return TITLES[summary.score].capitalize()


def _about(config: RecipeBenchConfig, summary: BenchSummary) -> str:
    rates = ", ".join(map(rate_text, config.learning_rates))
    return (
        f"Base {markdown_code(config.base)}, {len(config.ids)} tasks, learning rates {rates}, seeds "
        f"{', '.join(map(str, config.seeds))}, at most {config.test_texts} test texts of a task. The score is "
        f"{TITLES[summary.score]}, negated where less is better.\n\n"
        "A recipe's best rate is the one with the least mean place by held-out loss: within each task and seed, its "
        "rates are put in order by the loss on a slice of the train file that was not trained on, and the places are "
        "averaged. Test scores do not take part in the choice. Intervals hold the central 95 % of resampled tasks and "
        "seeds; differences are paired. Sensitivity is the greatest minus the least mean score over a decade of rates "
        "around the best one, on straight lines between the rates compared; ≥ marks a decade that these do not span."
    )


def _best_table(summary: BenchSummary) -> str:
    found = {one.label: one for one in summary.recipes}
    others = list(dict.fromkeys(name for one in summary.recipes for name in one.others))
    head = [
        *("recipe", "axis", "best rate", TITLES[summary.score], f"above {escaped(summary.reference)}", "sensitivity"),
        *(TITLES[name] for name in others),
        *("rank", "numbers", "seconds"),
    ]
    body = [
        [
            escaped(one.label),
            one.axis,
            rate_text(one.best_rate) + ("\\*" if one.is_at_edge else ""),
            span(one.score) if one.score else "",
            span(one.above_reference, signed=True) if one.above_reference else "",
            sensitivity_text(one),
            *(f"{one.others[name]:.3f}" if name in one.others else "" for name in others),
            *("" if value is None else f"{value:.{digits}f}" for value, digits in _sizes(one)),
        ]
        for one in (found[label] for label in summary.by_best)
    ]
    return markdown_table(head, body)


def _sizes(one: RecipeSummary) -> tuple[tuple[float | None, int], ...]:
    return (one.rank, 1), (one.parameters, 0), (one.seconds, 1)


def sensitivity_text(one: RecipeSummary) -> str:
    """Sensitivity to the rate as tables show it."""
    if one.sensitivity is None:
        return ""
    return ("≥ " if one.sensitivity_is_partial else "") + f"{one.sensitivity:.3f}"


def notes(summary: BenchSummary) -> list[str]:
    """What the reader of the tables must know: trainings that diverged, and rates at the edge of those compared."""
    lines = []
    for one in summary.recipes:
        diverged = {rate_text(point.learning_rate): point.diverged for point in one.curve if point.diverged}
        if diverged:
            told = ", ".join(f"{number} at {rate}" for rate, number in diverged.items())
            end = "; it has no rate without, and so no best one" if one.best_rate is None else ""
            lines.append(f"{one.label}: trainings diverged, {told}{end}.")
    edge = [one.label for one in summary.recipes if one.is_at_edge]
    if edge:
        lines.append(
            f"The best rate is the lowest or the highest compared, and a better one may lie beyond: {', '.join(edge)}."
        )
    return lines


def _notes(summary: BenchSummary) -> str:
    lines = [f"* {escaped(line)}" for line in notes(summary)]
    return "\n".join(lines)


def _shared(summary: BenchSummary) -> str:
    if summary.shared_rate is None:
        return f"{escaped(summary.reference)} has no best rate, so there is none to share."
    found = {one.label: one for one in summary.recipes}
    table = markdown_table(
        ["place", "at its own best rate", TITLES[summary.score], f"at {rate_text(summary.shared_rate)}", "score there"],
        [
            [
                str(place),
                *_cell(own, found[own].score if own else None),
                *_cell(one, found[one].at_shared if one else None),
            ]
            for place, own, one in places(summary)
        ],
    )
    swapped, pairs = summary.swapped()
    return (
        f"The rate is the best one of {escaped(summary.reference)}. {swapped} of {pairs} pairs of recipes stand the "
        f"other way round than at their own best rates.\n\n{table}"
    )


def places(summary: BenchSummary) -> list[tuple[int, str | None, str | None]]:
    """Place, label there at each one's own best rate, label there at the shared rate."""
    number = max(len(summary.by_best), len(summary.by_shared))

    def at(labels: Sequence[str], place: int) -> str | None:
        return labels[place] if place < len(labels) else None

    return [(place + 1, at(summary.by_best, place), at(summary.by_shared, place)) for place in range(number)]


def _cell(label: str | None, score: Interval | None) -> tuple[str, str]:
    return escaped(label or ""), "" if score is None else span(score)


def _curves(summary: BenchSummary) -> str:
    rates = [point.learning_rate for point in summary.recipes[0].curve]
    body = [
        [escaped(one.label), *(_point(point, is_best=point.learning_rate == one.best_rate) for point in one.curve)]
        for one in summary.recipes
    ]
    table = markdown_table(["recipe", *map(rate_text, rates)], body)
    return f"Means over tasks and seeds, and the mean place by held-out loss; the best rate is bold.\n\n{table}"


def _point(point: CurvePoint, *, is_best: bool) -> str:
    score = "diverged" if point.score is None else f"{point.score:.3f}"
    return f"{f'**{score}**' if is_best else score} ({point.held_out_rank:.1f})"


def _by_task(config: RecipeBenchConfig, summary: BenchSummary) -> str:
    found = {one.label: one for one in summary.recipes}
    body = [
        [escaped(label), *(f"{found[label].by_task[task]:.3f}" for task in config.ids)] for label in summary.by_best
    ]
    table = markdown_table(["recipe", *map(escaped, config.ids)], body)
    return f"{_title(summary)} at each recipe's own best rate.\n\n{table}"


def _time(cells: Sequence[BenchCell]) -> str:
    whole = sum(cell.seconds for cell in cells)
    return f"{len(cells)} trainings with their scores, {whole / 60:.1f} minutes, {whole / len(cells):.1f} s each."
