"""Two scores of an adapter on a task: zero-shot by label texts, and by nearest neighbours without label texts."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from loragen.adapter import Adapter
from loragen.backbone import Backbone
from loragen.config import StrictModel
from loragen.taskdata import Readout, TaskData


class Scores(StrictModel):
    """Scores of one adapter, or of the bare base, on one task's test file."""

    accuracy: float = Field(ge=0, le=1)
    """The class whose label text is nearest or, for language models, most likely."""
    macro_f1: float = Field(ge=0, le=1)
    """Unweighted mean of the F1 of the classes, of the label-text predictions."""
    cross_entropy: float = Field(ge=0)
    """In nats, of the softmax over 20 · cosine to the label texts, or over the labels' log-likelihoods."""
    knn_accuracy: float = Field(ge=0, le=1)
    """Vote of the 10 nearest other test texts."""
    v_measure: float | None = Field(None, ge=0, le=1)
    """Agreement of k-means clusters, as many as classes, with the classes; cards have none."""
    main: ClassVar[tuple[str, ...]] = ("accuracy", "knn_accuracy")
    """Names of the scores that methods are compared by."""


def read_task(backbone: Backbone, adapter: Adapter | None, data: TaskData) -> Readout:
    """What the adapted base makes of a task's inputs; ``None`` is the bare base."""
    with backbone.adapted(adapter):
        return backbone.read(data)


def score_task(backbone: Backbone, adapter: Adapter | None, data: TaskData) -> Scores:
    """Score an adapter on a task's test examples; ``None`` scores the bare base."""
    return scores_of(read_task(backbone, adapter, data))


def scores_of(readout: Readout, *, clustering: bool = False) -> Scores:
    """All scores of a task's inputs; clustering takes about as long as the others together."""
    predicted = readout.logits.argmax(1)
    return Scores(
        accuracy=accuracy(predicted, readout.targets),
        macro_f1=macro_f1(predicted, readout.targets),
        cross_entropy=float(torch.nn.functional.cross_entropy(readout.logits, readout.targets)),
        knn_accuracy=accuracy(knn_predictions(readout.texts, readout.targets), readout.targets),
        v_measure=v_measure(readout.texts, readout.targets) if clustering else None,
    )


def accuracy(predicted: Tensor, targets: Tensor) -> float:
    """Share of right predictions."""
    return float((predicted == targets).double().mean())


def macro_f1(predicted: Tensor, targets: Tensor) -> float:
    """Mean F1 over the classes that occur among targets or predictions."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets.numpy(), predicted.numpy(), average="macro", zero_division=0))


def v_measure(texts: Tensor, targets: Tensor) -> float:
    """Harmonic mean of homogeneity and completeness of k-means clusters of unit embeddings (n, d)."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import v_measure_score

    found = KMeans(len(set(targets.tolist())), n_init=3, random_state=0).fit_predict(texts.numpy())
    return float(v_measure_score(targets.numpy(), found))


def knn_predictions(texts: Tensor, targets: Tensor, *, k: int = 10) -> Tensor:
    """Leave-one-out vote of the k nearest other texts by cosine; ties go to the class with the larger summed cosine.

    Args:
        texts: unit embeddings, (n, d).
        targets: classes, (n,); used for voting only.
        k: neighbours asked; all others where there are fewer.
    """
    similarity = (texts @ texts.T).fill_diagonal_(float("-inf"))
    nearest, neighbours = similarity.topk(min(k, len(texts) - 1), dim=1)
    one_hot = torch.nn.functional.one_hot(targets[neighbours], int(targets.max()) + 1).double()
    votes = one_hot.sum(1)
    # A cosine sum of at most k, scaled below half a vote, decides between equal votes and nothing else.
    closeness = (one_hot * nearest[..., None].double()).sum(1) / (4 * k)
    return (votes + closeness).argmax(1)
