"""The expert library of SG-LoRA in codes, and the mixtures of experts that are its conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from torch import Tensor

from loragen.conditions.index import Index
from loragen.conditions.inverted_lists import MOST_FLAT, InvertedLists
from loragen.errors import GeneratorError, ZooError
from loragen.generators.trained import require_shapes

LIBRARY_IDS = "library.ids"
"""The ids of many experts, a line each, as bytes; those of few stand in the manifest."""
MAPPED = ("library.means", "library.variances", "library.embeddings")
"""Tensors of a library that are read where they are drawn on, if experts are many."""


def ids_of(stored: Tensor) -> tuple[str, ...]:
    """Ids from their bytes, as `LIBRARY_IDS` holds them."""
    return tuple(bytes(stored.to(torch.uint8).numpy()).decode(errors="replace").split("\n"))


@dataclass(frozen=True, eq=False)
class Mixture:
    """The condition c: mean and variance of a mixture of experts, each (..., k)."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, weights: Tensor, means: Tensor, variances: Tensor) -> Self:
        """Law of total variance, elementwise: weights (..., n) summing to 1; means and variances (n, k)."""
        mean = weights @ means
        within = weights @ variances
        between = weights @ means.square() - mean.square()
        return cls(mean, within + between.clamp_min(0.0))

    def features(self) -> Tensor:
        """Input of the networks, (..., 2k): the mean, and the logarithm of the variance."""
        return torch.cat([self.mean, (self.variance + 1e-6).log()], dim=-1)


@dataclass(frozen=True, eq=False)
class SGLibrary:
    """The expert library in codes: for each expert μ (k,), σ² (k,) and the embedding of its descriptions."""

    ids: tuple[str, ...]
    means: Tensor
    variances: Tensor
    embeddings: Tensor
    lists: InvertedLists | None = None
    """To search many embeddings, all of them unit vectors."""

    @classmethod
    def of(cls, ids: tuple[str, ...], means: Tensor, variances: Tensor, embeddings: Tensor) -> "SGLibrary":
        """The library of a training, with lists where experts are many."""
        lists = InvertedLists.build(embeddings) if len(ids) > MOST_FLAT else None
        return cls(ids, means, variances, embeddings, lists)

    @cached_property
    def index(self) -> Index:
        """The embeddings by id."""
        if self.lists is None:
            return Index.build(self.ids, self.embeddings)
        return Index.of_table(self.ids, self.embeddings, np.arange(len(self.ids)), self.lists)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {name: position for position, name in enumerate(self.ids)}

    def without(self, expert: str) -> "SGLibrary":
        """The same library without the row of an expert, for one that has no lists."""
        assert self.lists is None
        kept = [at for at, name in enumerate(self.ids) if name != expert]
        ids = tuple(self.ids[at] for at in kept)
        return SGLibrary(ids, self.means[kept], self.variances[kept], self.embeddings[kept])

    def mixture_of(self, weights: Mapping[str, float]) -> Mixture:
        """The condition under the weights of some experts, of which alone anything is read if there are many.

        Raises:
            GeneratorError: what is read is not finite.
        """
        if self.lists is None:
            return self.mixture(torch.tensor([weights.get(expert, 0.0) for expert in self.ids]))
        at = sorted(self._positions[expert] for expert in weights)
        means, variances = self.means[at], self.variances[at]
        if not (means.isfinite().all() and variances.isfinite().all() and (variances >= 0).all()):
            raise GeneratorError("The library of the generator is damaged; train it again with `loragen train`.")
        return Mixture.of(torch.tensor([weights[self.ids[position]] for position in at]), means, variances)

    def nearest_mixture(self, similarities: Tensor, *, top_k: int, temperature: float) -> Mixture:
        """The conditions under `weights` of similarities (b, n)."""
        if self.lists is None:
            return self.mixture(self.weights(similarities, top_k=top_k, temperature=temperature))
        kept = similarities.topk(min(top_k, similarities.shape[1]), dim=1)
        chosen = torch.softmax(kept.values / temperature, dim=1)[:, None]
        mixed = Mixture.of(chosen, self.means[kept.indices], self.variances[kept.indices])
        return Mixture(mixed.mean[:, 0], mixed.variance[:, 0])

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors from which `from_tensors` restores the library; with lists, its ids are among them."""
        named = {f"library.{name}": getattr(self, name) for name in ("means", "variances", "embeddings")}
        if self.lists is None:
            return named
        ids = torch.frombuffer(bytearray("\n".join(self.ids).encode()), dtype=torch.uint8)
        return named | self.lists.tensors() | {"library.ids": ids}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], ids: Sequence[str], size: int) -> "SGLibrary":
        """Restore a library in codes of a size; ``ids`` are those of one without lists.

        Raises:
            ZooError: tensors are missing or do not go together.
        """
        lists = None
        if LIBRARY_IDS in tensors:
            ids = ids_of(tensors[LIBRARY_IDS])
            require_shapes(tensors, {"library.embeddings": (len(ids), None)})
            if len(set(ids)) < len(ids):
                raise ZooError("The library names an expert twice")
            lists = InvertedLists.from_tensors(tensors, len(ids), tensors["library.embeddings"].shape[1])
        shapes: dict[str, tuple[int | None, ...]] = {
            "library.means": (len(ids), size),
            "library.variances": (len(ids), size),
            "library.embeddings": (len(ids), None),
        }
        require_shapes(tensors, shapes)
        means, variances, embeddings = (tensors[name].float() for name in shapes)
        return cls(tuple(ids), means, variances, embeddings, lists)

    def weights(self, similarities: Tensor, *, top_k: int, temperature: float) -> Tensor:
        """Softmax over the ``top_k`` largest of each row (b, n), zero elsewhere; -inf marks who may not serve."""
        kept = similarities.topk(min(top_k, similarities.shape[1]), dim=1)
        chosen = torch.softmax(kept.values / temperature, dim=1)
        return torch.zeros_like(similarities).scatter(1, kept.indices, chosen)

    def mixture(self, weights: Tensor) -> Mixture:
        """The condition under some weights (..., n)."""
        return Mixture.of(weights, self.means, self.variances)
