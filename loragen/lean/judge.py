"""What to expect of an adapter, from a description and label names: `loragen.generation.judge` on its straight way.

Where a safer adapter would be given out, or none, the path with torch does all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loragen.confidence.confidence import Confidence, confidence_file
from loragen.confidence.coverage import Coverage
from loragen.confidence.figure_names import Figures
from loragen.confidence.left_out import left_out_similarities
from loragen.confidence.outlook import Outlook
from loragen.confidence.words import says_nothing
from loragen.lean.encoder import LeanEncoder
from loragen.lean.errors import require
from loragen.lean.factors import Factors, cosine, distance, weighted_sum
from loragen.lean.zoo import LeanNeighbour, LeanZoo, mean_directions, neighbours_in

TOP_K, TEMPERATURE = 4, 0.1
"""Of the merge of the nearest experts, `TopK`."""


@dataclass(frozen=True, eq=False)
class LeanJudge:
    """Judges the adapters for one task."""

    confidence: Confidence
    shared: Factors
    """The zoo's one adapter for all tasks."""
    merge: Factors
    """The merge of the experts nearest to the description."""
    similarity: float
    """Of the nearest expert."""
    coverage: Coverage | None
    """How well the zoo covers the task; `None` where it has too few families to tell."""
    of_labels: Figures | None
    """`None` where no labels are given."""
    fallback: bool

    @classmethod
    def of(
        cls, zoo: LeanZoo, encoder: LeanEncoder, description: str, labels: Sequence[str], *, fallback: bool
    ) -> "LeanJudge":
        """The judge of a zoo for a task.

        Raises:
            NotLeanError: the description says nothing, or the zoo has no models of gains.
        """
        file = confidence_file("sg", zoo.root)
        assert file is not None
        confidence = Confidence.from_yaml(file)
        require(confidence.zoo_hash == zoo.fingerprint, "the models of gains are of other experts")
        vectors = encoder.encode([description, *labels])
        descriptions = zoo.descriptions(encoder)
        experts = mean_directions(descriptions)
        near = neighbours_in(zoo.ids, experts, vectors[0], TOP_K, temperature=TEMPERATURE)
        reference = left_out_similarities(descriptions, experts, zoo.families)
        nearest = [(near[0].id, near[0].similarity)]
        coverage = None if reference is None else reference.coverage(nearest[0][1], "description", nearest)
        nothing = fallback and says_nothing(description, near[0].similarity, encoder)
        require(not nothing, "the description says nothing")
        summands = sorted(near, key=lambda one: one.id)
        merge = weighted_sum([zoo.adapter(one.id) for one in summands], [one.weight for one in summands])
        told = of_labels(vectors.astype(np.float64)) if labels else None
        return cls(confidence, zoo.shared(), merge, near[0].similarity, coverage, told, fallback)

    def outlook(self, adapter: Factors, neighbours: Sequence[LeanNeighbour]) -> Outlook:
        """What is said of an adapter that is given out.

        Raises:
            NotLeanError: it is expected to gain nothing, so that another one may be better.
        """
        similarities = [one.similarity for one in neighbours]
        agreement = cosine(adapter, self.merge, centre=self.shared)
        figures: Figures = {
            "nearest expert": max(similarities),
            "experts drawn on": sum(similarities) / len(similarities),
            "norm": adapter.norm(),
            "beyond the shared adapter": distance(adapter, self.shared) / (self.shared.norm() or 1.0),
            "agrees with the merge": agreement,
        }
        knows = figures | (self.of_labels or {})
        expected = self.confidence.expect("generated", knows, "labels" if self.of_labels else "description")
        is_good = expected is None or expected.gain > 0
        require(is_good or not self.fallback, "the adapter is expected to gain nothing")
        return Outlook(
            similarity=round(self.similarity, 4),
            agreement=round(agreement, 4),
            expected=expected,
            coverage=self.coverage,
        )


def of_labels(vectors: np.ndarray) -> Figures:
    """How many labels there are, and how alike their names are, from unit embeddings of description and names."""
    names = vectors[1:]
    alike = names @ names.T
    pairs = alike[~np.eye(len(names), dtype=bool)]
    return {
        "labels": math.log(len(names)),
        "likeness of labels": float(pairs.mean()),
        "likest labels": float(pairs.max()),
        "labels and description": float((names @ vectors[0]).mean()),
    }
