"""Scores of an adapter on a task: by label texts and by neighbours, of completions, and of retrieval."""

from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Discriminator, Field, Tag
from torch import Tensor

from loragen.bases.tokenised import Readout
from loragen.config import StrictModel


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


class LanguageScores(StrictModel):
    """Scores of a language model's predictions of the completions, or of the texts, of a test file."""

    perplexity: float = Field(ge=1)
    """exp of the mean negative log-likelihood of a token; it depends on the tokenizer."""
    bits_per_byte: float = Field(ge=0)
    """Negative log-likelihood in bits over the bytes of the texts in UTF-8; it does not."""
    exact_match: float | None = Field(None, ge=0, le=1)
    """Share of prompts whose most likely completion, token by token, is the wanted one; `None` without prompts."""
    main: ClassVar[tuple[str, ...]] = ("bits_per_byte",)


class RetrievalScores(StrictModel):
    """Recall at 1, 5 and 10 among the test pairs of one task: a caption found for an image, an image for a caption."""

    image_to_text_1: float = Field(ge=0, le=1)
    image_to_text_5: float = Field(ge=0, le=1)
    image_to_text_10: float = Field(ge=0, le=1)
    text_to_image_1: float = Field(ge=0, le=1)
    text_to_image_5: float = Field(ge=0, le=1)
    text_to_image_10: float = Field(ge=0, le=1)
    main: ClassVar[tuple[str, ...]] = ("image_to_text_1", "text_to_image_1")


def _kind(values: object) -> str:
    """Tag of the kind that scores are of, so that pydantic tells the faults of that kind alone."""
    names = values if isinstance(values, Mapping) else getattr(type(values), "__annotations__", ())
    return "language" if "perplexity" in names else "retrieval" if "image_to_text_1" in names else "labels"


_Labels = Annotated[Scores, Tag("labels")]
_Language = Annotated[LanguageScores, Tag("language")]
_Retrieval = Annotated[RetrievalScores, Tag("retrieval")]
AnyScores = Annotated[_Labels | _Language | _Retrieval, Discriminator(_kind)]
FAMILIES: tuple[type[Scores | LanguageScores | RetrievalScores], ...] = (Scores, LanguageScores, RetrievalScores)
RANKS = (1, 5, 10)
"""Ranks of recall."""
LESS_IS_MORE = ("bits_per_byte", "perplexity", "cross_entropy")
"""Scores that are better the lower they are."""


def main_score(scores: AnyScores) -> float:
    """The first of the scores that methods are compared by, turned so that more is better."""
    name = scores.main[0]
    return float(getattr(scores, name)) * (-1 if name in LESS_IS_MORE else 1)


def retrieval_scores(similarities: Tensor) -> RetrievalScores:
    """Recall from similarities (n, n) of images (rows) and captions, the i-th of each a pair; ties count as found."""
    own = similarities.diagonal()
    ranks = {"image_to_text": (similarities > own[:, None]).sum(1), "text_to_image": (similarities > own).sum(0)}
    return RetrievalScores(
        **{f"{way}_{k}": float((found < k).double().mean()) for way, found in ranks.items() for k in RANKS}
    )


def shown_scores(found: Iterable[Scores | LanguageScores | RetrievalScores | None]) -> dict[str, str]:
    """Names of the main scores of all kinds met, with short titles; those of labels where no score was met."""
    kinds = dict.fromkeys(type(scores) for scores in found if scores is not None) or {Scores: None}
    titles = {"accuracy": "label text", "knn_accuracy": "kNN"}
    return {name: titles.get(name, name.replace("_", " ")) for kind in kinds for name in kind.main}
