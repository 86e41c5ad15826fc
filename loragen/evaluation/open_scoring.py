"""Scores of open tasks: likelihood and exactness of completions, and retrieval between images and captions."""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar

from pydantic import Discriminator, Field, Tag
from torch import Tensor

from loragen.adapter import Adapter
from loragen.backbone import Backbone
from loragen.config import StrictModel
from loragen.evaluation.scoring import Scores, score_task
from loragen.language import CausalLM
from loragen.taskdata import TaskData


class LanguageScores(StrictModel):
    """How well a language model predicts the completions, or the texts, of a test file."""

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
    """Which of the three it is, so that a fault is told of that one alone."""
    names = values if isinstance(values, Mapping) else type(values).__annotations__
    return "language" if "perplexity" in names else "retrieval" if "image_to_text_1" in names else "labels"


_Labels = Annotated[Scores, Tag("labels")]
_Language = Annotated[LanguageScores, Tag("language")]
_Retrieval = Annotated[RetrievalScores, Tag("retrieval")]
AnyScores = Annotated[_Labels | _Language | _Retrieval, Discriminator(_kind)]
FAMILIES: tuple[type[Scores | LanguageScores | RetrievalScores], ...] = (Scores, LanguageScores, RetrievalScores)
RANKS = (1, 5, 10)
LESS_IS_MORE = ("bits_per_byte", "perplexity", "cross_entropy")
"""Scores that are better the lower they are."""


def main_score(scores: AnyScores) -> float:
    """The first of the scores that methods are compared by, turned so that more is better."""
    name = scores.main[0]
    return float(getattr(scores, name)) * (-1 if name in LESS_IS_MORE else 1)


def measure(backbone: Backbone, adapter: Adapter | None, data: TaskData) -> AnyScores:
    """Score an adapter on a test file by what its task and base admit; ``None`` scores the bare base."""
    if not data.is_open:
        return score_task(backbone, adapter, data)
    with backbone.adapted(adapter):
        if isinstance(backbone, CausalLM):
            return language_scores(backbone, data)
        return retrieval_scores(backbone.read(data).logits)


def language_scores(backbone: CausalLM, data: TaskData) -> LanguageScores:
    """Scores of completions under the factors in use."""
    losses, counts = backbone.surprises(data.ids, data.label_ids)
    nats = float(losses.sum())
    size = sum(len(text.encode()) for text in backbone.texts_of(data.label_ids))
    return LanguageScores(
        perplexity=math.exp(nats / float(counts.sum())),
        bits_per_byte=nats / math.log(2) / max(size, 1),
        exact_match=_exact_match(backbone, data) if backbone.has_prompts(data) else None,
    )


def _exact_match(backbone: CausalLM, data: TaskData) -> float:
    wanted = [text.strip() for text in backbone.texts_of(data.label_ids)]
    made = backbone.continued(data.ids, max_new_tokens=max(len(row) for row in data.label_ids))
    return sum(one == other for one, other in zip(made, wanted, strict=True)) / len(wanted)


def retrieval_scores(similarities: Tensor) -> RetrievalScores:
    """Recall from similarities (n, n) of images (rows) and captions, the i-th of each a pair; ties count as found."""
    own = similarities.diagonal()
    ranks = {"image_to_text": (similarities > own[:, None]).sum(1), "text_to_image": (similarities > own).sum(0)}
    return RetrievalScores(
        **{f"{way}_{k}": float((found < k).double().mean()) for way, found in ranks.items() for k in RANKS}
    )


def shown_scores(found: Iterable[Scores | LanguageScores | RetrievalScores | None]) -> dict[str, str]:
    """The main scores of all that was scored, with short titles; those of labels where nothing was."""
    kinds = dict.fromkeys(type(scores) for scores in found if scores is not None) or {Scores: None}
    titles = {"accuracy": "label text", "knn_accuracy": "kNN"}
    return {name: titles.get(name, name.replace("_", " ")) for kind in kinds for name in kind.main}
