"""Pseudo-labels: classes of unlabelled texts, by an adapter and by how the texts lie together.

Three opinions of each text are multiplied: what the adapter says of it; what it says of the ten texts nearest to it;
and the nearest cluster. Clusters are one a class, begun at what the adapter says: TransCLIP (Zanella, Gérin and Ben
Ayed, 2024) without its covariances and its graph. Where one opinion goes astray, the others make the text unsure, and
unsure texts are not learnt from. Nothing pulls classes towards equal sizes, unless the user says how large they are.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.bases.losses import LOGIT_SCALE
from loragen.bases.tokenised import Readout

NEIGHBOURS, PART = 10, 0.05
"""Texts, beside a text itself, whose predictions make the second opinion; a part of all where there are few."""
STRENGTH = 0.5
"""Part of the texts at which a cluster of so many, all alike, counts as much as what the adapter says. Clusters may
follow something else than the classes do, and more texts are no remedy: so it is a part, and no number."""
_ROUNDS = 10
"""Rounds of the clusters; thirty give the same."""
_MATCHING = 50
"""Steps of the search for the biases that give the classes their shares."""
_ROWS = 1024
"""Texts whose neighbours are sought at once."""
_LEAST = 1e-9
"""Least probability in a product."""


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Probabilities of the classes for each text."""

    probabilities: Tensor
    """(n, classes), rows sum to 1."""
    said: Tensor
    """Classes that the adapter alone gives the texts, (n,)."""

    @property
    def classes(self) -> Tensor:
        """The likeliest class of each text, (n,)."""
        return self.probabilities.argmax(1)

    @property
    def agreement(self) -> float:
        """Share of texts whose class is the one that the adapter alone gives."""
        return float((self.classes == self.said).double().mean())

    def surest(self, share: float) -> list[int]:
        """Places of the surest texts of each class, the same share of every class and at least one of each."""
        confidence, classes = self.probabilities.max(1)
        kept: list[int] = []
        for each in sorted(set(classes.tolist())):
            members = (classes == each).nonzero().flatten()
            order = confidence[members].argsort(descending=True, stable=True)
            kept += members[order[: max(1, round(len(members) * share))]].tolist()
        return sorted(kept)


def pseudo_labels(readout: Readout, *, known: Tensor | None = None, shares: Tensor | None = None) -> PseudoLabels:
    """Give each text a class.

    Args:
        readout: the texts under an adapter; its targets are not looked at.
        known: classes of the texts, (n,), -1 where nobody knows; those known are kept.
        shares: sizes of the classes, (classes,), summing to 1, where the user knows them.
    """
    logits = readout.logits.double()
    # What all texts share says nothing of how they lie together.
    texts = F.normalize(readout.texts.double() - readout.texts.double().mean(0), dim=1)
    own = _fixed(_softmax(logits, shares), known)
    opinions = own, of_neighbours(texts, own), of_clusters(texts, logits, own, known, shares)
    logs = torch.stack([opinion.clamp(min=_LEAST).log() for opinion in opinions]).mean(0)
    return PseudoLabels(_fixed(_softmax(logs, shares), known).float(), readout.logits.argmax(1))


def of_neighbours(texts: Tensor, own: Tensor) -> Tensor:
    """Mean prediction of each text and those nearest to it."""
    number = min(1 + max(1, min(NEIGHBOURS, round(PART * len(texts)))), len(texts))
    parts = [own[(rows @ texts.T).topk(number, dim=1).indices].mean(1) for rows in torch.split(texts, _ROWS)]
    return torch.cat(parts)


def of_clusters(texts: Tensor, logits: Tensor, own: Tensor, known: Tensor | None, shares: Tensor | None) -> Tensor:
    """Probabilities by a cluster a class: small classes lean on what the adapter says, large ones on their cluster."""
    guess = own
    for _ in range(_ROUNDS):
        sums = guess.T @ texts
        sizes = sums.norm(dim=1)
        trust = sizes / (sizes + STRENGTH * len(texts))
        near = LOGIT_SCALE * texts @ F.normalize(sums, dim=1).T
        guess = _fixed(_softmax((1 - trust) * logits + trust * near, shares), known)
    return guess


def _softmax(logits: Tensor, shares: Tensor | None) -> Tensor:
    """Probabilities of the classes; with ``shares`` their means over the texts are these."""
    if shares is None:
        return logits.softmax(1)
    biases = torch.zeros_like(logits[0])
    for _ in range(_MATCHING):
        means = (logits + biases).softmax(1).mean(0)
        biases = biases + shares.to(logits).log() - means.clamp(min=_LEAST).log()
    return (logits + biases).softmax(1)


def _fixed(guess: Tensor, known: Tensor | None) -> Tensor:
    if known is None:
        return guess
    told = F.one_hot(known.clamp(min=0), guess.shape[1]).to(guess)
    return torch.where((known >= 0)[:, None], told, guess)
