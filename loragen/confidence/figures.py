"""Figures of a task and an adapter that need no labelled text: what an expected gain is read from."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loragen.adaptation.pseudo_labels import PseudoLabels
from loragen.adapters.adapter import Lora
from loragen.adapters.products import cosine, distance
from loragen.bases.tokenised import Readout
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.figure_names import KNOWN_BY as KNOWN_BY
from loragen.confidence.figure_names import OF_DESCRIPTION as OF_DESCRIPTION
from loragen.confidence.figure_names import OF_LABELS as OF_LABELS
from loragen.confidence.figure_names import OF_TEXTS as OF_TEXTS
from loragen.confidence.figure_names import Figures as Figures
from loragen.zoo.expert_index import Neighbour


def of_description(adapter: Lora, neighbours: Sequence[Neighbour], *, merge: Lora, shared: Lora) -> Figures:
    """How near the experts are that an adapter draws on, how far it goes, and if a plain merge goes the same way.

    Args:
        adapter: what was generated.
        neighbours: the experts that it draws on.
        merge: the merge of the experts nearest to the description, by the same zoo.
        shared: the zoo's one adapter for all tasks.
    """
    similarities = torch.tensor([one.similarity for one in neighbours] or [0.0])
    norm = adapter.norm()
    return {
        "nearest expert": float(similarities.max()),
        "experts drawn on": float(similarities.mean()),
        "norm": norm,
        "beyond the shared adapter": distance(adapter, shared) / (shared.norm() or 1.0),
        "agrees with the merge": cosine(adapter, merge, centre=shared),
    }


def of_labels(labels: Sequence[str], description: str, encoder: TextEncoder) -> Figures:
    """How many labels there are, and how alike their names are to each other and to the description."""
    vectors = encoder.encode([description, *labels]).float()
    names = vectors[1:]
    alike = names @ names.T
    pairs = alike[~torch.eye(len(names), dtype=torch.bool)]
    return {
        "labels": float(torch.tensor(float(len(names))).log()),
        "likeness of labels": float(pairs.mean()),
        "likest labels": float(pairs.max()),
        "labels and description": float((names @ vectors[0]).mean()),
    }


def of_texts(bare: Readout, adapted: Readout, guess: PseudoLabels) -> Figures:
    """What the predictions of the base and of an adapter look like on unlabelled texts of a task."""
    base, own = bare.logits.softmax(1), adapted.logits.softmax(1)
    return {
        "base: confidence": _confidence(base),
        "base: information": _information(base),
        "base: evenness": _evenness(base),
        "confidence": _confidence(own),
        "information": _information(own),
        "evenness": _evenness(own),
        "agrees with base": float((base.argmax(1) == own.argmax(1)).double().mean()),
        "agrees with clusters": guess.agreement,
        "clusters: information": _information(guess.probabilities),
    }


def _confidence(probabilities: Tensor) -> float:
    """Mean of the likeliest class's probability, above chance."""
    chance = 1 / probabilities.shape[1]
    return float((probabilities.max(1).values.mean() - chance) / (1 - chance))


def _information(probabilities: Tensor) -> float:
    """Entropy of the mean prediction less the mean entropy of predictions, as a part of the largest possible."""
    entropies = torch.special.entr(probabilities).sum(1).mean()
    return float((torch.special.entr(probabilities.mean(0)).sum() - entropies) / _most(probabilities))


def _evenness(probabilities: Tensor) -> float:
    """Entropy of the classes' shares among the predictions, as a part of the largest possible."""
    shares = torch.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]) / len(probabilities)
    return float(torch.special.entr(shares.double()).sum() / _most(probabilities))


def _most(probabilities: Tensor) -> Tensor:
    return torch.tensor(float(probabilities.shape[1])).log()
