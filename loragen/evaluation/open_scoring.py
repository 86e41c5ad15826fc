"""Scores of open tasks: likelihood and exactness of completions, and retrieval between images and captions."""

import math

from pydantic import Field
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


class RetrievalScores(StrictModel):
    """Recall at 1, 5 and 10 among the test pairs of one task, in either direction."""

    image_to_text: tuple[float, float, float]
    text_to_image: tuple[float, float, float]


AnyScores = Scores | LanguageScores | RetrievalScores
RANKS = (1, 5, 10)


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

    def recalls(ranks: Tensor) -> tuple[float, float, float]:
        one, five, ten = (float((ranks < k).double().mean()) for k in RANKS)
        return one, five, ten

    return RetrievalScores(
        image_to_text=recalls((similarities > own[:, None]).sum(1)),
        text_to_image=recalls((similarities > own[None, :]).sum(0)),
    )
