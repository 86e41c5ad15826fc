"""The report of a sequence: metrics of each row, its cost, as JSON and Markdown, and a figure."""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from pydantic import ConfigDict

from loragen.config import StrictModel
from loragen.continual.metrics import ContinualScores
from loragen.continual.registry import row_of
from loragen.errors import MissingExtraError
from loragen.escaping import markdown as escaped
from loragen.evaluation.markdown_parts import markdown_table
from loragen.evaluation.sequences.cells import Key, SequenceCell
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.evaluation.sequences.rows import SequenceRow as SequenceRow
from loragen.files import atomic_write

REPORT, MARKDOWN, FIGURE = "report.json", "report.md", "over-time"
BASE, MERGED, JOINT, ALONE = "base", "merge_sequence", "joint", "alone"


class SequenceReport(StrictModel):
    """The report of a sequence."""

    model_config = ConfigDict(allow_inf_nan=True)

    config: SequenceConfig
    zoo_hash: str
    rows: tuple[SequenceRow, ...]
    cells: tuple[SequenceCell, ...]
    versions: dict[str, str]

    @property
    def files(self) -> list[Path]:
        """Files of the report that lie in its folder."""
        names = (REPORT, MARKDOWN, f"{FIGURE}.png", f"{FIGURE}.svg")
        return [path for name in names if (path := self.config.out / name).is_file()]


def matrix(config: SequenceConfig, known: Mapping[Key, SequenceCell], row: str) -> list[list[float]]:
    """Moments x tasks of a row; the base's stays the same."""
    moments = range(len(config.groups))
    return [[known[row, 0 if row == BASE else at, task].score for task in config.ids] for at in moments]


def make_report(
    config: SequenceConfig,
    zoo_hash: str,
    known: Mapping[Key, SequenceCell],
    costs: Mapping[str, tuple[float, int]],
) -> SequenceReport:
    """Sum up all cells.

    Args:
        config: settings.
        zoo_hash: fingerprint of the experts.
        known: the cells.
        costs: row → seconds of all updates, bytes kept between them.
    """
    ids = config.ids
    base = [known[BASE, 0, task].score for task in ids]
    alone = [known[ALONE, at, task].score for at, group in enumerate(config.groups.values()) for task in group]
    last = len(config.groups) - 1
    joint = [known[JOINT, last, task].score for task in ids] if JOINT in config.strategies else None
    groups = [[ids.index(task) for task in group] for group in config.groups.values()]
    names = (BASE, *config.strategies, *((MERGED,) if config.merged is not None else ()))
    rows = tuple(
        SequenceRow(
            name=name,
            needs=row_of(name).needs if name in config.strategies else "",
            scores=ContinualScores.of(
                matrix(config, known, name), groups, alone=alone, joint=joint, base=None if name == BASE else base
            ),
            errors=_errors(config, known, name),
            seconds=round(costs[name][0], 1) if name in costs else None,
            kept_bytes=costs[name][1] if name in costs else None,
        )
        for name in names
    )
    versions = {name: version(name) for name in ("loragen", "torch")}
    return SequenceReport(config=config, zoo_hash=zoo_hash, rows=rows, cells=tuple(known.values()), versions=versions)


def _errors(config: SequenceConfig, known: Mapping[Key, SequenceCell], row: str) -> tuple[float | None, ...]:
    found: list[float | None] = []
    for moment in range(len(config.groups)):
        errors = [known[row, 0 if row == BASE else moment, task].error for task in config.until(moment)]
        measured = [error for error in errors if error is not None]
        found.append(round(sum(measured) / len(measured), 4) if measured else None)
    return tuple(found)


def table(rows: Sequence[SequenceRow]) -> str:
    """A row a strategy, best average at the end first; below and above all stand the bounds as they came out."""
    head = ("row", "needs", "AA", "AIA", "FM", "BWT", "FWT", "IM", "zero-shot", "error", "s", "MB kept")
    ordered = sorted(rows, key=lambda row: -(row.scores.aa or 0))
    return markdown_table(head, [[escaped(row.name), row.needs, *_numbers(row)] for row in ordered])


def _numbers(row: SequenceRow) -> list[str]:
    scores = row.scores
    plain = [_number(value) for value in (scores.aa, scores.aia)]
    signed = [_number(v, "+.3f") for v in (scores.fm, scores.bwt, scores.fwt, scores.im, scores.zero_shot)]
    error, seconds = _number(row.errors[-1]), _number(row.seconds, ".0f")
    return [*plain, *signed, error, seconds, "" if row.kept_bytes is None else f"{row.kept_bytes / 1e6:.1f}"]


def _number(value: float | None, spec: str = ".3f") -> str:
    return "" if value is None else format(value, spec)


def write_report(report: SequenceReport) -> None:
    """Write a report as JSON and Markdown, and its figure where matplotlib is installed."""
    folder = report.config.out
    atomic_write(folder / REPORT, report.model_dump_json(indent=1) + "\n")
    atomic_write(folder / MARKDOWN, _markdown(report))
    try:
        from loragen.evaluation.sequences.figure import write_over_time
    except MissingExtraError:
        return
    write_over_time(report.rows, list(report.config.groups), folder / FIGURE)


def _markdown(report: SequenceReport) -> str:
    groups = "\n".join(
        f"{number}. {escaped(name)}: {', '.join(map(escaped, ids))}"
        for number, (name, ids) in enumerate(report.config.groups.items(), 1)
    )
    return (
        "# Strategies over a sequence\n\n"
        f"Groups of tasks in the order in which they arrived:\n\n{groups}\n\n"
        "After each group the generator is brought up to date, and adapters are generated for every task from a "
        "wording that it has not read. AA: mean score of all tasks at the end; AIA: mean of that over time; FM: what "
        "is forgotten; BWT, FWT: transfer backwards and forwards; IM: what is missing to all tasks at once; zero-shot: "
        "gain over the base on tasks still to come; error: relative distance to the experts at the end. Seconds are "
        "of all updates; MB lie on the disk between them, the old experts that a strategy reads among them: "
        f"joint reads all of them.\n\n{table(report.rows)}\n"
    )
