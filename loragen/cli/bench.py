"""`loragen bench`: ways to train against one another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import JsonOption, SetOption

if TYPE_CHECKING:
    from loragen.bench.report import BenchReport


def bench_recipes(
    config: Annotated[Path, typer.Argument(help="A YAML file; `loragen config show bench/recipes` is one.")],
    overrides: SetOption = None,
    part: Annotated[
        str | None, typer.Option(help="Only this share of the trainings, such as 1/2, beside other processes.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare recipes for experts, each at several learning rates; an interrupted run goes on where it was."""
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        report = loragen.bench_recipes(config, update, overrides=overrides or (), part=part)
    if report is None:
        if as_json:
            console.say_json({"part": part, "summary": None})
            return
        console.done(f"part {part}; the report is made when the other parts are done")
        return
    if as_json:
        console.say_json(report.model_dump(mode="json", include={"summary", "versions"}))
        return
    _show(report)


def _show(report: "BenchReport") -> None:
    from loragen.cli import console

    summary, found = report.summary, {one.label: one for one in report.summary.recipes}
    above = f"above {summary.reference}"
    console.table(
        f"{len(report.config.ids)} tasks, each recipe at its own best rate",
        ("recipe", "rate", summary.score.replace("_", " "), above, "by rate"),
        [
            (
                label,
                f"{found[label].best_rate:.2g}",
                "" if (score := found[label].score) is None else f"{score.mean:.3f}",
                "" if (lead := found[label].above_reference) is None else format(lead, "+.3f"),
                "" if (change := found[label].sensitivity) is None else f"{change:.3f}",
            )
            for label in summary.by_best
        ],
        numbers=("rate", summary.score.replace("_", " "), above, "by rate"),
    )
    console.say("By rate: how much the score changes over a decade of rates around the best one.", "")
    if summary.shared_rate is not None:
        own, there = list(summary.by_best), list(summary.by_shared)
        number = max(len(own), len(there))
        own, there = (labels + [""] * (number - len(labels)) for labels in (own, there))
        console.table(
            "The order of the recipes",
            ("place", "at its own best rate", f"all at {summary.shared_rate:.2g}"),
            [(place, *pair) for place, pair in enumerate(zip(own, there, strict=True), 1)],
        )
        console.say("")
    for note in report.notes:
        console.warn(note)
    for file in report.files:
        console.done(file)
