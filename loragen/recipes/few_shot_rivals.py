"""What plain classifiers make of the same labelled examples as a fit, cross-validated within these."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.scores import accuracy
from loragen.bases.tokenised import TaskData
from loragen.recipes.embedding_classifiers import fitted_on
from loragen.recipes.few_shot_settings import Over
from loragen.recipes.few_shot_settings import RivalScore as RivalScore

OVER: tuple[Over, ...] = ("base", "adapter")


def rival_scores(
    data: TaskData, base: Base, folds: Sequence[tuple[list[int], list[int], Lora]], label_texts_right: Tensor
) -> tuple[RivalScore, ...]:
    """Scores of the centroid method and logistic regression, over base and adapter, out of fold.

    Args:
        data: the examples.
        base: a text encoder.
        folds: indices to fit to, indices that are held out, and the adapter that was fitted to the first alone.
        label_texts_right: (n,), true where the label texts of the adapter of the fold that held an example out are
            right on it.
    """
    bare, targets = base.read(data).texts, data.targets
    predicted: dict[tuple[str, Over], Tensor] = {}
    for train, held_out, adapter in folds:
        for over, texts in zip(OVER, (bare, base.read(data, adapter).texts), strict=True):
            for method, found in fitted_on(texts[train], targets[train], texts[held_out]).items():
                predicted.setdefault((method, over), torch.empty_like(targets))[held_out] = found
    return tuple(
        RivalScore(
            method=method,
            over=over,
            accuracy=round(accuracy(found, targets), 4),
            error=round(_paired_error(found == targets, label_texts_right), 4),
        )
        for (method, over), found in predicted.items()
    )


def rival_note(rivals: Sequence[RivalScore], label_texts: float) -> str | None:
    """A remark in plain words on the best classifier, where it leads the label texts by more than a standard error.

    Args:
        rivals: those of one fit.
        label_texts: accuracy of the label texts on the same examples.
    """
    best = max(rivals, key=lambda rival: rival.accuracy, default=None)
    if best is None or best.accuracy - label_texts <= max(best.error, 1e-9):
        return None
    whose = "adapted embeddings" if best.over == "adapter" else "embeddings of the bare base"
    how = (
        "Adapter.sentence_transformer().encode(texts)"
        if best.over == "adapter"
        else "the base's embeddings, without the adapter"
    )
    return (
        f"Cross-validated on the examples, a {best.method} over the {whose} was right on {best.accuracy:.2f} of those "
        f"held out, label texts {label_texts:.2f}; if classes are all you want, fit one to {how}."
    )


def _paired_error(right: Tensor, others: Tensor) -> float:
    differences = right.double() - others.double()
    return float(differences.std() / len(differences) ** 0.5)
