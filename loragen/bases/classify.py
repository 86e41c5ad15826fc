"""Zero-shot classification by label texts, or by the likelihood of labels, through a base and an adapter."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, Switch
from loragen.tasks.examples import Examples


@dataclass(frozen=True)
class Prediction:
    """The label of one text."""

    label: str
    probability: float
    by_label: dict[str, float]
    """Softmax over 20 · cosine or, for language models, log-likelihoods; rounded to 4 digits."""


def classify_texts(
    base: Base, adapter: Lora | Switch | None, texts: Sequence[str], labels: Sequence[str], *, max_length: int = 128
) -> list[Prediction]:
    """Give each text the label that fits it best under the adapted base.

    Raises:
        AdapterError: the adapter was made for another base.
    """
    data = base.prepare(Examples(tuple(texts), label_names=tuple(labels)), max_length=max_length)
    probabilities = torch.softmax(base.read(data, adapter).logits, dim=1)
    return [
        Prediction(
            labels[int(row.argmax())],
            float(row.max()),
            {label: round(p, 4) for label, p in zip(labels, row.tolist(), strict=True)},
        )
        for row in probabilities
    ]
