"""`loragen evaluate`: one adapter on one's own texts, or generators on tasks that their zoo has not seen."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import (
    ENCODER,
    BaseOption,
    EncoderOption,
    JsonOption,
    LabelColumnOption,
    LabelOption,
    LabelsFileOption,
    SetOption,
    TextColumnOption,
    ZooOption,
    label_names,
)
from loragen.errors import ConfigError

if TYPE_CHECKING:
    from loragen.evaluation.own_data_rows import OwnDataReport
    from loragen.evaluation.report_model import Report
    from loragen.evaluation.statistics import Interval


def evaluate(
    target: Annotated[Path, typer.Argument(help="An adapter folder, or a YAML file (`loragen config list`).")],
    data: Annotated[
        Path | None, typer.Option(help="Labelled texts (columns text, label) to judge an adapter on.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(help="Label names of the texts, separated by commas; numbers are positions among them."),
    ] = None,
    label: LabelOption = None,
    labels_file: LabelsFileOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    description: Annotated[
        str | None, typer.Option(help="The task in words (default: what the adapter's card says).")
    ] = None,
    base: BaseOption = None,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    sequence: Annotated[
        bool, typer.Option("--sequence", help="The config names groups of experts that arrive one after the other.")
    ] = False,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge one adapter on your own labelled texts, or generators on tasks their zoo has not seen."""
    names = label_names(labels, label, labels_file)
    import loragen
    from loragen.cli import console

    if target.is_dir():
        if data is None:
            raise ConfigError(f"{target} is an adapter; give the labelled texts to judge it on with --data.")
        with console.progress() as update:
            judged = loragen.evaluate(
                target,
                data,
                labels=names,
                text_column=text_column,
                label_column=label_column,
                description=description,
                base=base,
                zoo=zoo,
                encoder=encoder,
                progress=update,
            )
        _show_own(judged, data, as_json=as_json)
        return
    if data is not None:
        raise ConfigError("--data goes with an adapter folder; a config names its own tasks.")
    if sequence:
        _evaluate_sequence(target, overrides or [], as_json=as_json)
        return
    with console.progress() as update:
        report = loragen.evaluate_generators(target, update, overrides=overrides or ())
    if as_json:
        console.say_json(report.model_dump(mode="json", include={"summary", "seconds", "tasks"}))
        return
    _show_summary(report)
    for file in report.files:
        console.done(file)


def _evaluate_sequence(config: Path, overrides: list[str], *, as_json: bool) -> None:
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        report = loragen.evaluate_sequence(config, update, overrides=overrides)
    if as_json:
        console.say_json(report.model_dump(mode="json", include={"rows", "zoo_hash"}))
        return
    columns = ("strategy", "AA", "AIA", "FM", "BWT", "zero-shot", "s")
    console.table(
        f"{len(report.config.groups)} groups of {len(report.config.ids)} experts in all",
        columns,
        [
            (
                row.name,
                *map(_number, (row.scores.aa, row.scores.aia, row.scores.fm, row.scores.bwt, row.scores.zero_shot)),
                "" if row.seconds is None else f"{row.seconds:.0f}",
            )
            for row in sorted(report.rows, key=lambda row: -(row.scores.aa or 0))
        ],
        numbers=columns[1:],
    )
    for file in report.files:
        console.done(file)


def _show_own(report: "OwnDataReport", data: Path, *, as_json: bool) -> None:
    from loragen.cli import console

    if as_json:
        console.say_json(asdict(report))
        return
    for how, score, other, title, above in (
        ("label texts", "accuracy", "macro_f1", "macro-F1", "above"),
        ("neighbours", "knn_accuracy", "v_measure", "V-measure", "knn_above"),
    ):
        columns = ("adapter", "accuracy", title, "this adapter above")
        console.table(
            f"{data}: {report.texts} texts, {len(report.labels)} labels; by {how}",
            columns,
            [
                (row.method, _number(getattr(row, score)), _number(getattr(row, other)), _span(getattr(row, above)))
                for row in report.rows
                if getattr(row, score) is not None
            ],
            numbers=columns[1:],
        )
    if any(row.uses_labels for row in report.rows):
        console.say("Centroid and logistic regression learn from the labels of the other texts, over the bare base.")
    for note in report.notes:
        console.warn(note)
    console.say("", report.verdict)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _span(interval: "Interval | None", spec: str = "+.3f") -> str:
    return "" if interval is None else format(interval, spec)


def _show_summary(report: "Report") -> None:
    from loragen.cli import console

    summary = report.summary
    for group in report.shown_groups(kinds=False):
        for score in summary.main:
            rows = [row for row in summary.rows if (row.group, row.score) == (group, score)]
            console.table(
                f"{group}, {rows[0].tasks} tasks: {report.title(score)}",
                ("adapter", "mean", "recovered gain", "above topk"),
                [
                    (row.method, _number(row.mean.mean), _span(row.gain, ".2f"), _span(row.above.get("topk")))
                    for row in rows
                ],
                numbers=("mean", "recovered gain", "above topk"),
            )
    _show_condition(report)


def _show_condition(report: "Report") -> None:
    """Ranks of own adapters among other tasks', where the evaluation has them."""
    from loragen.cli import console

    for group in report.shown_groups(kinds=False):
        rows = [row for row in report.summary.condition.rows if row.group == group and row.rank is not None]
        if rows:
            console.table(
                f"{group}, {rows[0].tasks} tasks: share of other tasks' adapters that the own one beats (chance: .5)",
                ("adapter", "by", "rank"),
                [(row.method, report.title(row.score), _span(row.rank, ".2f")) for row in rows],
                numbers=("rank",),
            )
