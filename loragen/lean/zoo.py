"""The bundled zoo as generating reads it: cards, embeddings and adapters. `Zoo` and `ExpertIndex` without torch."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from loragen.adapters.folder_files import WEIGHTS_NAME
from loragen.bundled import bundled_folder
from loragen.config import read_yaml
from loragen.files import sha256_of
from loragen.lean.arrays import Array, Floats, read_arrays
from loragen.lean.encoder import LeanEncoder
from loragen.lean.errors import require
from loragen.lean.factors import Factors

DIGITS = 6
"""Similarities are rounded to so many digits."""
SPLIT, EXPERTS, CARD, MULTITASK, EMBEDDINGS, MANIFEST, PACKED = (
    *("experts", "experts", "card.yaml", "multitask", "embeddings", "zoo.yaml", "experts.sqlite"),
)


@dataclass(frozen=True)
class LeanNeighbour:
    """An expert near to a description; see `Neighbour`."""

    id: str
    similarity: float
    weight: float


@dataclass(frozen=True, eq=False)
class LeanZoo:
    """The experts that generators draw on."""

    root: Path
    manifest: Mapping[str, Any]
    cards: Mapping[str, Mapping[str, Any]]
    """By id, in alphabetical order."""

    @classmethod
    def open(cls, root: Path) -> Self:
        """Read the manifest and the cards.

        Raises:
            NotLeanError: something is not as in the bundled zoo.
            ConfigError: a file is damaged.
        """
        require(not (root / PACKED).exists(), "the experts are packed")
        folders = sorted(path.parent for path in (root / EXPERTS).glob(f"[!.]*/{CARD}"))
        require(not any(folder.is_symlink() for folder in (root / EXPERTS, *folders)), "a folder is a link")
        cards = {folder.name: read_yaml(folder / CARD) for folder in folders}
        for name, card in cards.items():
            texts = (card["description"], card["licence"], card["origin"], card["split"], *card["paraphrases"])
            require(card["id"] == name and all(isinstance(text, str) for text in texts), "a card is damaged")
        chosen = {name: card for name, card in cards.items() if card["split"] == SPLIT}
        require(bool(chosen), "there are no experts")
        return cls(root, read_yaml(root / MANIFEST), chosen)

    @property
    def ids(self) -> tuple[str, ...]:
        """Of the experts."""
        return tuple(self.cards)

    @cached_property
    def fingerprint(self) -> str:
        """The same as `Zoo.fingerprint` of the experts that generators draw on."""
        return self._fingerprint(name for name in self._hashes if name in self.cards)

    @cached_property
    def whole_fingerprint(self) -> str:
        """That of the experts of all splits, which cards name the zoo by."""
        return self._fingerprint(self._hashes)

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Id → SHA-256 of the adapter, for experts of all splits."""
        folders = sorted(path.parent for path in (self.root / EXPERTS).glob(f"[!.]*/{CARD}"))
        return {folder.name: sha256_of(folder / WEIGHTS_NAME) for folder in folders}

    def _fingerprint(self, names: Iterable[str]) -> str:
        lines = "".join(f"{name} {self._hashes[name]}\n" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()

    def adapter(self, name: str) -> Factors:
        """An expert's adapter."""
        return Factors.load(self.root / EXPERTS / name)

    def shared(self) -> Factors:
        """The one adapter that was trained on all experts' tasks together."""
        return Factors.load(self.root / MULTITASK)

    @property
    def families(self) -> tuple[str, ...]:
        """Of the experts; one without a family is its own."""
        return tuple(card.get("family") or name for name, card in self.cards.items())

    def descriptions(self, encoder: LeanEncoder) -> list[NDArray[np.float64]]:
        """For each expert the unit vectors of its descriptions, which the zoo keeps, (p, d).

        Raises:
            NotLeanError: the zoo does not hold them all.
        """
        arrays, _ = read_arrays(self.root / EMBEDDINGS / encoder.cache_name)
        keys, vectors = arrays["keys"], arrays["vectors"].astype(np.float64)
        require(bool((np.abs(np.square(vectors).sum(1) - 1) < 1e-3).all()), "embeddings are damaged")
        known = {bytes(key): vector for key, vector in zip(keys, vectors, strict=True)}
        experts = []
        for card in self.cards.values():
            texts = (card["description"], *card["paraphrases"])
            found = [known.get(hashlib.sha256(text.encode()).digest()) for text in texts]
            require(all(vector is not None for vector in found), "an embedding is missing")
            experts.append(np.array(found, dtype=np.float64))
        return experts


def mean_directions(descriptions: Sequence[Floats]) -> Array:
    """For each expert the unit vector along the mean of its descriptions' vectors, (n, d)."""
    means = [np.mean(vectors, axis=0) for vectors in descriptions]
    return np.array([mean / np.linalg.norm(mean) for mean in means], dtype=np.float32)


def neighbours_in(
    ids: Sequence[str], embeddings: Floats, query: Floats, top_k: int, *, temperature: float
) -> tuple[LeanNeighbour, ...]:
    """The ``top_k`` entries nearest to a query (d,), with softmax(similarity / temperature) as weights; see `Index`."""
    vectors, unit = units(embeddings).astype(np.float64), units(query[None])[0].astype(np.float64)
    similarities = (vectors * unit).sum(1).tolist()
    ranked = sorted((-round(value, DIGITS), name) for value, name in zip(similarities, ids, strict=True))[:top_k]
    largest = -ranked[0][0]
    shares = [math.exp((-value - largest) / temperature) for value, _ in ranked]
    whole = sum(shares)
    return tuple(
        LeanNeighbour(name, -value, share / whole) for (value, name), share in zip(ranked, shares, strict=True)
    )


def units(vectors: Floats) -> Array:
    """Rows of length 1, float32."""
    exact = vectors.astype(np.float64)
    rows: Array = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)
    return rows


def default_root() -> Path:
    """Folder of the bundled zoo."""
    return bundled_folder("zoo") / "minilm"
