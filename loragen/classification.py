"""Zero-shot classification by label texts, through a base and an adapter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loragen.adapter import Adapter
from loragen.backbone import LOGIT_SCALE, Backbone


@dataclass(frozen=True)
class Prediction:
    """The label of one text."""

    label: str
    probability: float
    by_label: dict[str, float]
    """Softmax over 20 · cosine, rounded to 4 digits."""


def classify_texts(
    backbone: Backbone, adapter: Adapter | None, texts: Sequence[str], labels: Sequence[str], *, max_length: int = 128
) -> list[Prediction]:
    """Give each text the label whose text is nearest, both embedded through the adapted base.

    Raises:
        AdapterError: the adapter was made for another base.
    """
    with backbone.adapted(adapter):
        embedded = backbone.encode(backbone.tokenize(texts, max_length=max_length))
        named = backbone.encode(backbone.tokenize(labels, max_length=max_length))
    probabilities = torch.softmax(LOGIT_SCALE * embedded @ named.T, dim=1)
    return [
        Prediction(
            labels[int(row.argmax())],
            float(row.max()),
            {label: round(p, 4) for label, p in zip(labels, row.tolist(), strict=True)},
        )
        for row in probabilities
    ]
