"""The experts of a zoo by description: their embeddings, and the nearest of them to a new task."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.adapters.raw_factors import RawFactors
from loragen.bases.known import EMBEDDED_MODEL
from loragen.conditions.index import Index
from loragen.conditions.inverted_lists import MOST_FLAT
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, TaskError, ZooError, shown
from loragen.zoo.card import Card
from loragen.zoo.card_table import CardTable
from loragen.zoo.embedding_table import EMBEDDINGS as EMBEDDINGS
from loragen.zoo.embedding_table import EmbeddingTable
from loragen.zoo.embedding_table import mean_direction as mean_direction
from loragen.zoo.zoo import SPLIT, Zoo


@dataclass(frozen=True)
class Neighbour:
    """An expert that a generation drew on."""

    id: str
    similarity: float
    """Cosine between its description and the task's."""
    weight: float
    """Its share in the mixture; the shares of one generation sum to 1, and ridge regression has negative ones."""


@dataclass(frozen=True, eq=False)
class ExpertIndex:
    """Experts of a zoo with the embeddings of their descriptions, searchable."""

    zoo: Zoo
    paraphrases: Sequence[Tensor]
    """For each expert, in the order of ``zoo.ids``, unit embeddings of its descriptions, (p, c)."""
    index: Index
    """Over one embedding an expert: the normalised mean of its descriptions' embeddings."""
    encoder: str = ""
    """`TextEncoder.key` of the encoder that embedded them."""

    @classmethod
    def of(cls, zoo: Zoo, encoder: TextEncoder) -> "ExpertIndex":
        """Embed the descriptions of all experts of a zoo; their embeddings are kept beside it.

        Those of a packed zoo of many experts are searched in lists.

        Raises:
            ZooError: the zoo is empty, or its embeddings are damaged.
        """
        if isinstance(zoo.cards, CardTable) and zoo.cards.size() > MOST_FLAT:
            index, of_descriptions = EmbeddingTable.of(zoo.root, encoder).index(zoo.cards)
            return cls(zoo, of_descriptions, index, encoder.key)
        cards = list(zoo)
        embedded = replace(encoder, cache=zoo.root / EMBEDDINGS).encode(
            [text for card in cards for text in card.descriptions]
        )
        paraphrases = torch.split(embedded, [len(card.descriptions) for card in cards])
        index = Index.build(zoo.ids, torch.stack([mean_direction(p) for p in paraphrases]))
        return cls(zoo, paraphrases, index, encoder.key)

    def neighbours(self, query: Tensor, *, top_k: int, temperature: float) -> tuple[Neighbour, ...]:
        """The ``top_k`` experts nearest to an embedding (c,), with softmax(similarity / temperature) as weights."""
        return neighbours_in(self.index, query, top_k, temperature=temperature)


def search(
    description: str,
    zoo: Zoo | Path | None = None,
    *,
    top_k: int = 8,
    all_splits: bool = False,
    licences: Collection[str] | None = None,
    encoder: TextEncoder | str = f"sentence-transformers/{EMBEDDED_MODEL}",
) -> list[tuple[Card, float]]:
    """Find the experts whose descriptions are nearest to a task; their cards with cosines, the nearest first.

    Args:
        description: a task, in words.
        zoo: the zoo; by default the bundled one.
        top_k: number of experts.
        all_splits: also experts that generators never draw on, such as those for validation.
        licences: experts of these licences alone.
        encoder: embeds descriptions.

    Raises:
        TaskError: the description is empty.
        ZooError: there is no such zoo, or no expert has a licence asked for.
        ConfigError: there is no such encoder, or ``top_k`` is below 1.
    """
    if not description.strip():
        raise TaskError("The task description is empty; say the task in words.")
    if top_k < 1:
        raise ConfigError(f"{shown(top_k)} experts were asked for; at least 1 was wanted.")
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    text_encoder = TextEncoder.load(encoder) if isinstance(encoder, str) else encoder
    experts = opened.select(splits=None if all_splits else {SPLIT}, licences=licences)
    hits = ExpertIndex.of(experts, text_encoder).index.search(text_encoder.encode([description])[0], top_k)
    return [(experts.card(hit.id), hit.similarity) for hit in hits]


def neighbours_in(
    index: Index, query: Tensor, top_k: int, *, temperature: float, exclude: Collection[str] = ()
) -> tuple[Neighbour, ...]:
    """The ``top_k`` entries of an index nearest to a query (c,), with softmax(similarity / temperature) as weights."""
    hits = index.search(query, top_k, exclude=exclude)
    weights = softmax_weights([hit.similarity for hit in hits], temperature)
    return tuple(Neighbour(hit.id, hit.similarity, weight) for hit, weight in zip(hits, weights, strict=True))


def in_equal_shares(ids: Sequence[str], embeddings: Tensor, query: Tensor) -> tuple[Neighbour, ...]:
    """All experts, nearest to a query (c,) first, where a network has learnt from every one; embeddings (n, c)."""
    hits = Index.build(ids, embeddings).search(query, len(ids))
    return tuple(Neighbour(hit.id, hit.similarity, 1 / len(ids)) for hit in hits)


def softmax_weights(similarities: Sequence[float], temperature: float) -> list[float]:
    """softmax(similarity / temperature), in double precision; a lower temperature favours the nearest more."""
    weights: list[float] = torch.softmax(torch.tensor(similarities, dtype=torch.float64) / temperature, 0).tolist()
    return weights


def samples_of(zoo: Zoo, space: Frame | RawFactors, adapters: Sequence[Lora]) -> Tensor:
    """For each expert its mean and its snapshots as vectors, (n, 1 + snapshots, d).

    Where adapters come from elsewhere, nothing is known but themselves, and the mean stands for the snapshots.

    Raises:
        ZooError: experts have different numbers of snapshots, or statistics that do not fit their adapter.
    """
    trained = [expert for expert in zoo.ids if zoo.card(expert).has_trajectory]
    points = 1 + len(next(iter(zoo.snapshots(trained[0]).values()))) if trained else 1
    samples = torch.empty(len(adapters), points, space.size)
    for sample, expert, adapter in zip(samples, zoo.ids, adapters, strict=True):
        sample[:] = space.coordinates(adapter)
        if expert in trained:
            found = _snapshots(zoo, expert, adapter)
            if len(found) != points - 1:
                raise ZooError(
                    f"The expert {expert} of {zoo.root} has {len(found)} snapshots, others have {points - 1}; restore "
                    "it, or remove its folder and build again."
                )
            for at, snapshot in enumerate(found, 1):
                sample[at] = space.coordinates(snapshot)
    return samples


def _snapshots(zoo: Zoo, expert: str, adapter: Lora) -> list[Lora]:
    """The points of an expert's training that were kept: other B over the same A."""
    points = zoo.snapshots(expert)
    number = len(next(iter(points.values())))
    return [
        replace(adapter, lora_B={site: b[at].to(adapter.lora_B[site]) for site, b in points.items()})
        for at in range(number)
    ]
