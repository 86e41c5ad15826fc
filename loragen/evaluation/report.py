"""What an evaluation leaves: `report.json`, from which everything can be drawn again, and `report.md`."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from loragen.config import StrictModel
from loragen.errors import MissingExtraError
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.controls import RIGHT
from loragen.evaluation.evaluate import BASE, ORACLE, Bench, EvaluateConfig
from loragen.evaluation.statistics import Interval
from loragen.evaluation.summary import KIND, Row, Summary, summarise
from loragen.files import atomic_write
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import SPLIT

REPORT, MARKDOWN = "report.json", "report.md"
TITLES: dict[str, str] = {
    "accuracy": "label-text accuracy",
    "knn_accuracy": "kNN accuracy",
    "macro_f1": "macro-F1",
    "cross_entropy": "cross-entropy",
    "v_measure": "V-measure",
    "bits_per_byte": "bits per byte",
    "perplexity": "perplexity",
    "exact_match": "exact match",
    **{f"image_to_text_{k}": f"image to text, R@{k}" for k in (1, 5, 10)},
    **{f"text_to_image_{k}": f"text to image, R@{k}" for k in (1, 5, 10)},
}


class Place(StrictModel):
    """A task or expert on the map of descriptions."""

    id: str
    split: str
    kind: str
    x: float
    y: float


class EvaluatedTask(Place):
    """An evaluated task."""

    family: str
    labels: int
    texts: int
    """In its test file."""
    similarity: float
    """Cosine between its description and the nearest expert's."""
    nearest: str


class Report(StrictModel):
    """Everything needed to redraw an evaluation."""

    config: EvaluateConfig
    zoo_hash: str
    tasks: tuple[EvaluatedTask, ...]
    experts: tuple[Place, ...]
    cells: tuple[Cell, ...]
    summary: Summary
    seconds: dict[str, float]
    """By method, generating and scoring of all its cells."""
    versions: dict[str, str]


def make_report(bench: Bench, cells: Sequence[Cell]) -> Report:
    """Summarise an evaluation."""
    library = ExpertIndex.of(bench.zoo.select(splits={SPLIT}), bench.encoder)
    embeddings = bench.encoder.encode([task.description for task in bench.tasks])
    places = _places(torch.cat([library.index.vectors.float(), embeddings]))
    experts = [
        Place(id=card.id, split=SPLIT, kind=card.kind, x=x, y=y)
        for card, (x, y) in zip(library.zoo, places, strict=False)
    ]
    tasks = []
    for task, embedding, (x, y) in zip(bench.tasks, embeddings, places[len(experts) :], strict=True):
        (hit,) = library.index.search(embedding, 1)
        tasks.append(
            EvaluatedTask(
                id=task.id,
                split=bench.split_of[task.id],
                kind=task.kind,
                family=task.family,
                labels=len(task.labels),
                texts=len(bench.data(task).ids),
                similarity=round(hit.similarity, 4),
                nearest=hit.id,
                x=x,
                y=y,
            )
        )
    seconds: dict[str, float] = {}
    for cell in cells:
        seconds[cell.method] = seconds.get(cell.method, 0.0) + cell.seconds
    return Report(
        config=bench.config,
        zoo_hash=bench.zoo.fingerprint,
        tasks=tuple(tasks),
        experts=tuple(experts),
        cells=tuple(cells),
        summary=summarise(cells, groups_of(tasks), base=BASE, oracle=ORACLE, rivals=bench.rivals),
        seconds={method: round(total, 1) for method, total in seconds.items()},
        versions={name: version(name) for name in ("loragen", "torch", "transformers")},
    )


def write_report(bench: Bench, cells: Sequence[Cell]) -> tuple[Report, list[Path]]:
    """Summarise an evaluation and write the report, as JSON and as Markdown, and its figures where matplotlib is."""
    report = make_report(bench, cells)
    folder = bench.config.out
    atomic_write(folder / REPORT, report.model_dump_json(indent=1) + "\n")
    atomic_write(folder / MARKDOWN, markdown(report))
    return report, [folder / REPORT, folder / MARKDOWN, *_plots(report, folder)]


def _plots(report: Report, folder: Path) -> list[Path]:
    try:
        from loragen.evaluation.figures import evaluation_plots
    except MissingExtraError:
        return []
    return evaluation_plots(report, folder)


def groups_of(tasks: Sequence[EvaluatedTask]) -> dict[str, list[str]]:
    """Splits, all tasks, and kinds of at least three tasks, each with the ids."""
    groups: dict[str, list[str]] = {}
    for task in tasks:
        groups.setdefault(task.split, []).append(task.id)
    groups[ALL] = [task.id for task in tasks]
    kinds: dict[str, list[str]] = {}
    for task in tasks:
        if task.kind:
            kinds.setdefault(f"{KIND}{task.kind}", []).append(task.id)
    return groups | {kind: ids for kind, ids in sorted(kinds.items()) if len(ids) >= 3}


def _places(embeddings: torch.Tensor) -> list[tuple[float, float]]:
    """Two dimensions by t-SNE, the same each time."""
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(15.0, (len(embeddings) - 1) / 4))
    placed = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(embeddings.double().numpy())
    return [(round(float(x), 3), round(float(y), 3)) for x, y in placed]


# --- Markdown ---------------------------------------------------------------------------------------------------------


def markdown(report: Report) -> str:
    """The report to read: a table a group, controls, behaviour, and what took the time."""
    summary = report.summary
    parts = ["# Evaluation", _about(report)]
    for group in shown_groups(report):
        count = next(row.tasks for row in summary.rows if row.group == group)
        parts.append(f"## {group} ({count} tasks)\n\n{main_table(summary, group)}")
        if not group.startswith(KIND):
            parts.append(score_table(summary, group))
    if summary.controls:
        parts.append(f"## Told something else\n\n{control_table(summary, ALL)}")
    parts.append(f"## What the adapters are like\n\n{behaviour_table(summary)}")
    parts.append(f"## Time\n\n{_time(report)}")
    return "\n\n".join(parts) + "\n"


def shown_groups(report: Report) -> list[str]:
    """Groups with a table of their own: where there is one split, all tasks are none."""
    groups = dict.fromkeys(row.group for row in report.summary.rows)
    return [group for group in groups if group != ALL or len(report.config.splits) > 1]


def _about(report: Report) -> str:
    return (
        f"Zoo `{report.config.zoo}` ({report.zoo_hash[:12]}), {len(report.tasks)} tasks of "
        f"{', '.join(report.config.splits)}, seeds {', '.join(map(str, report.config.seeds))}. Intervals hold the "
        "central 95 % of resampled tasks and seeds; differences are paired."
    )


def _time(report: Report) -> str:
    whole = sum(cell.seconds for cell in report.cells)
    parts = {
        "forgetting": sum(cell.forgetting_seconds for cell in report.cells),
        "controls": sum(cell.seconds for cell in report.cells if cell.control != RIGHT),
    }
    texts = f"{whole / 60:.0f} minutes: " if whole >= 60 else f"{whole:.0f} s: "
    rest = {"scores on the test files": whole - sum(parts.values())} | parts
    slowest = sorted(report.seconds.items(), key=lambda item: -item[1])
    return (
        texts
        + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in rest.items())
        + ". By row, controls and forgetting included: "
        + ", ".join(f"{method} {seconds:.0f} s" for method, seconds in slowest)
        + "."
    )


def main_table(summary: Summary, group: str) -> str:
    """Mean, recovered gain, differences to rivals and shares of tasks won, for each of the two main scores."""
    blocks = []
    for score in summary.main:
        rows = [row for row in summary.rows if row.group == group and row.score == score]
        rivals = list(dict.fromkeys(rival for row in rows for rival in row.above))
        head = [
            TITLES[score],
            "mean",
            "recovered gain",
            *(f"above {r}" for r in rivals),
            *(f"beats {r}" for r in rivals),
        ]
        body = [
            [
                row.method,
                span(row.mean),
                span(row.gain, digits=2) if row.gain else "",
                *(span(row.above[r], signed=True) if r in row.above else "" for r in rivals),
                *(f"{row.wins[r]:.0%}" if r in row.wins else "" for r in rivals),
            ]
            for row in rows
        ]
        blocks.append(_table(head, body))
    return "\n\n".join(blocks)


def score_table(summary: Summary, group: str) -> str:
    """The other scores, means alone."""
    found: dict[str, dict[str, Row]] = {}
    for row in summary.rows:
        if row.group == group:
            found.setdefault(row.method, {})[row.score] = row
    others = [score for score in next(iter(found.values())) if score not in summary.main]
    body = [[method, *(f"{by[score].mean.mean:.3f}" for score in others)] for method, by in found.items()]
    return _table(["other scores", *(TITLES[score] for score in others)], body)


def control_table(summary: Summary, group: str) -> str:
    """What each control costs each generator."""
    rows = [row for row in summary.controls if row.group == group]
    spreads = {(row.method, row.score): row.spread for row in summary.paraphrases}
    names = list(dict.fromkeys(row.control for row in rows))
    blocks = []
    for score in summary.main:
        costs = {(row.method, row.control): row.cost for row in rows if row.score == score}
        body = [
            [
                method,
                *(span(costs[method, name], signed=True) if (method, name) in costs else "" for name in names),
                span(spreads[method, score]) if (method, score) in spreads else "",
            ]
            for method in dict.fromkeys(row.method for row in rows)
        ]
        head = [f"{TITLES[score]}: right description minus", *names, "spread over wordings"]
        blocks.append(_table(head, body))
    return "\n\n".join(blocks)


def behaviour_table(summary: Summary) -> str:
    """Forgetting and novelty."""
    body = [
        [
            row.method,
            span(row.forgetting, signed=True) if row.forgetting else "",
            *("" if value is None else f"{value:.2f}" for value in (row.to_mean, row.to_nearest, row.to_mixture)),
            "" if row.replays is None else f"{row.replays:.0%}",
        ]
        for row in summary.behaviour
    ]
    head = ["adapter", "on unrelated tasks", "to mean", "to nearest expert", "to best mixture", "replays"]
    return _table(head, body)


def span(interval: Interval, *, digits: int = 3, signed: bool = False) -> str:
    """A number with its interval."""
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.{digits}f} ({interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f})"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in body)])
