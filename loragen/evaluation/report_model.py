"""The report of an evaluation as data: `report.json`, from which tables and figures can be made again."""

from pathlib import Path

from pydantic import ConfigDict

from loragen.config import StrictModel
from loragen.evaluation.cells import ALL, Cell
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.summary import KIND, Summary

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
"""Name of a score → its name for readers."""


class MapPoint(StrictModel):
    """A task or expert on the map of descriptions."""

    id: str
    split: str
    kind: str
    x: float
    y: float


class EvaluatedTask(MapPoint):
    """An evaluated task."""

    family: str
    labels: int
    texts: int
    """In its test file."""
    similarity: float
    """Cosine between its description and the nearest expert's."""
    nearest: str
    """Id of that expert."""


class Report(StrictModel):
    """The report of an evaluation of generators."""

    model_config = ConfigDict(allow_inf_nan=True)  # figures may be infinite, where settings may not

    config: EvaluateConfig
    zoo_hash: str
    tasks: tuple[EvaluatedTask, ...]
    experts: tuple[MapPoint, ...]
    cells: tuple[Cell, ...]
    summary: Summary
    seconds: dict[str, float]
    """By method, generating and scoring of all its cells."""
    versions: dict[str, str]

    def shown_groups(self, *, kinds: bool = True) -> list[str]:
        """Groups with a table of their own: all tasks have none where there is one split; ``kinds`` counts kinds."""
        groups = dict.fromkeys(row.group for row in self.summary.rows)
        shown = [group for group in groups if group != ALL or len(self.config.splits) > 1]
        return [group for group in shown if kinds or not group.startswith(KIND)]

    def title(self, score: str) -> str:
        """The name of a score for readers."""
        return TITLES[score]

    @property
    def files(self) -> list[Path]:
        """Files of the report that lie in the evaluation's folder: JSON, Markdown, figures."""
        folder = self.config.out
        figures = sorted(path for suffix in ("png", "svg") for path in folder.glob(f"*.{suffix}"))
        return [path for path in (folder / REPORT, folder / MARKDOWN, *figures) if path.is_file()]
