"""Rows of an adapter and its rivals on one's own labelled texts, from their predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from loragen.bases.scores import accuracy, knn_predictions, macro_f1, v_measure
from loragen.bases.tokenised import Readout
from loragen.evaluation.statistics import Interval, Table
from loragen.evaluation.verdict import Comparison

ADAPTER = "this adapter"
"""Name of the adapter's own row."""


@dataclass(frozen=True)
class OwnDataRow:
    """Scores of one method, and the adapter's lead over it with intervals over the texts."""

    method: str
    accuracy: float
    """By label texts or, for language models, by the likelihood of the labels."""
    macro_f1: float
    uses_labels: bool = False
    """True for classifiers that were fitted to the labels of the other texts, by cross-validation."""
    knn_accuracy: float | None = None
    """Vote of the 10 nearest other texts; classifiers fitted to the labels have none."""
    v_measure: float | None = None
    """Agreement of k-means clusters with the labels; classifiers fitted to the labels have none."""
    above: Interval | None = None
    """Accuracy of this adapter minus the method's; `None` for the adapter itself."""
    knn_above: Interval | None = None
    """The same difference by the vote of neighbours."""


@dataclass(frozen=True)
class OwnDataReport:
    """Scores of an adapter and its rivals on labelled texts, with a verdict."""

    texts: int
    labels: tuple[str, ...]
    base: str
    description: str | None
    """The task in words, as merges of the zoo were searched by it."""
    rows: tuple[OwnDataRow, ...]
    verdict: str
    """One or two sentences that follow from the rows."""
    notes: tuple[str, ...] = ()
    """Remarks on rows that are left out, and on limits of the data."""

    def row(self, method: str) -> OwnDataRow | None:
        """The row of a method, if there is one."""
        return next((row for row in self.rows if row.method == method), None)


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions of an adapter, of other adapters over the same base, and of classifiers fitted to the labels."""

    read: Mapping[str, Readout]
    """Adapters by name, `ADAPTER` among them."""
    fitted: Mapping[str, Tensor]
    """Classes (n,) predicted by classifiers, by name."""
    targets: Tensor
    """(n,)"""

    @cached_property
    def compared(self) -> dict[str, Comparison]:
        """The adapter against each other method."""
        return _against_adapter(
            {name: one.logits.argmax(1) for name, one in self.read.items()} | dict(self.fitted), self.targets
        )

    def rows(self) -> tuple[OwnDataRow, ...]:
        """One row a method, those fitted to the labels last."""
        neighbours = {name: knn_predictions(one.texts, self.targets) for name, one in self.read.items()}
        compared, by_neighbours = self.compared, _against_adapter(neighbours, self.targets)
        rows = []
        for name, one in self.read.items():
            is_own, predicted = name == ADAPTER, one.logits.argmax(1)
            rows.append(
                OwnDataRow(
                    method=name,
                    accuracy=accuracy(predicted, self.targets),
                    macro_f1=macro_f1(predicted, self.targets),
                    knn_accuracy=accuracy(neighbours[name], self.targets),
                    v_measure=v_measure(one.texts, self.targets),
                    above=None if is_own else compared[name].difference,
                    knn_above=None if is_own else by_neighbours[name].difference,
                )
            )
        return (*rows, *self._fitted_rows())

    def _fitted_rows(self) -> list[OwnDataRow]:
        return [
            OwnDataRow(
                method=name,
                uses_labels=True,
                accuracy=accuracy(predicted, self.targets),
                macro_f1=macro_f1(predicted, self.targets),
                above=self.compared[name].difference,
            )
            for name, predicted in self.fitted.items()
        ]


def _against_adapter(predicted: Mapping[str, Tensor], targets: Tensor) -> dict[str, Comparison]:
    right: dict[str, Table] = {name: (one == targets).double().numpy()[:, None] for name, one in predicted.items()}
    return {name: Comparison.of(right[ADAPTER], other) for name, other in right.items() if name != ADAPTER}
