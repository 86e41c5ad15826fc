"""Names of the figures that gains are expected from, by what is known of a task."""

from loragen.confidence.expected import Knowledge

Figures = dict[str, float]
"""Name → value."""
OF_DESCRIPTION = ("nearest expert", "experts drawn on", "norm", "beyond the shared adapter", "agrees with the merge")
OF_LABELS = ("labels", "likeness of labels", "likest labels", "labels and description")
OF_TEXTS = (
    *("base: confidence", "base: information", "base: evenness", "confidence", "information", "evenness"),
    *("agrees with base", "agrees with clusters", "clusters: information"),
)
KNOWN_BY: dict[Knowledge, tuple[str, ...]] = {
    "description": OF_DESCRIPTION,
    "labels": (*OF_DESCRIPTION, *OF_LABELS),
    "texts": (*OF_DESCRIPTION, *OF_LABELS, *OF_TEXTS),
}
"""Names of the figures that are at hand by what is known of a task."""
