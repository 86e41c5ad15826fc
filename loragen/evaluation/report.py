"""Makes the report of an evaluation and writes it: `report.json`, `report.md`, and figures where matplotlib is."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from loragen.errors import MissingExtraError
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.config import BASE, ORACLE
from loragen.evaluation.likeness import Likeness
from loragen.evaluation.markdown import markdown
from loragen.evaluation.report_model import MARKDOWN, REPORT, EvaluatedTask, MapPoint, Report
from loragen.evaluation.summary import KIND, summarise
from loragen.evaluation.workspace import Workspace
from loragen.files import atomic_write
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import SPLIT


def make_report(workspace: Workspace, cells: Sequence[Cell], *, likenesses: Sequence[Likeness] = ()) -> Report:
    """Summarise an evaluation.

    Args:
        workspace: the evaluation.
        cells: all of them.
        likenesses: of the adapters that its generators make.
    """
    experts, tasks = _map(workspace)
    seconds: dict[str, float] = {}
    for cell in cells:
        seconds[cell.method] = seconds.get(cell.method, 0.0) + cell.seconds
    return Report(
        config=workspace.config,
        zoo_hash=workspace.zoo.fingerprint,
        tasks=tasks,
        experts=experts,
        cells=tuple(cells),
        summary=summarise(
            cells,
            groups_of(tasks),
            base=BASE,
            oracle=ORACLE,
            rivals=workspace.rivals,
            generators=workspace.config.generators,
            likenesses=likenesses,
        ),
        seconds={method: round(total, 1) for method, total in seconds.items()},
        versions={name: version(name) for name in ("loragen", "torch", "transformers")},
    )


def write_report(report: Report, folder: Path) -> list[Path]:
    """Write a report as JSON and as Markdown, and its figures where matplotlib is installed; returns the files."""
    atomic_write(folder / REPORT, report.model_dump_json(indent=1) + "\n")
    atomic_write(folder / MARKDOWN, markdown(report))
    return [folder / REPORT, folder / MARKDOWN, *_figures(report, folder)]


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


def _map(workspace: Workspace) -> tuple[tuple[MapPoint, ...], tuple[EvaluatedTask, ...]]:
    """Experts and tasks with their places on the map of descriptions."""
    library = ExpertIndex.of(workspace.zoo.select(splits={SPLIT}), workspace.encoder)
    embeddings = workspace.encoder.encode([task.description for task in workspace.tasks])
    places = _places(torch.cat([library.index.vectors.float(), embeddings]))
    experts = tuple(
        MapPoint(id=card.id, split=SPLIT, kind=card.kind, x=x, y=y)
        for card, (x, y) in zip(library.zoo, places, strict=False)
    )
    tasks = []
    for task, embedding, (x, y) in zip(workspace.tasks, embeddings, places[len(experts) :], strict=True):
        (hit,) = library.index.search(embedding, 1)
        tasks.append(
            EvaluatedTask(
                id=task.id,
                split=workspace.split_of[task.id],
                kind=task.kind,
                family=task.family,
                labels=len(task.labels),
                texts=len(task.load_test()),
                similarity=round(hit.similarity, 4),
                nearest=hit.id,
                x=x,
                y=y,
            )
        )
    return experts, tuple(tasks)


def _places(embeddings: torch.Tensor) -> list[tuple[float, float]]:
    """Two dimensions by t-SNE, the same each time."""
    from sklearn.manifold import TSNE

    perplexity = max(1.0, min(15.0, (len(embeddings) - 1) / 4))
    placed = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(embeddings.double().numpy())
    return [(round(float(x), 3), round(float(y), 3)) for x, y in placed]


def _figures(report: Report, folder: Path) -> list[Path]:
    try:
        from loragen.evaluation.figures import evaluation_plots
    except MissingExtraError:
        return []
    return evaluation_plots(report, folder)
