"""The attention pool of histories as it is kept: trained on synthetic persons, in a folder beside the generators."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from safetensors.torch import save

from loragen.adapters.tensor_file import read_tensors
from loragen.conditions.history_pool import HistoryPool, PoolConfig
from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.origin import behind_of
from loragen.generators.trained import (
    Provenance,
    check_encoder,
    load_network,
    network_tensors,
    reading_folder,
    require_shapes,
)
from loragen.paths import is_file
from loragen.zoo.zoo import Zoo

HISTORY = "history"
"""Folder beside the generators of a zoo."""
HISTORY_MANIFEST = "history.yaml"
TENSORS = "history.safetensors"


class HistoryManifest(Provenance):
    """Manifest of a trained pool."""

    kind: Literal["history"] = "history"
    pool: PoolConfig


@dataclass(frozen=True, eq=False)
class TrainedPool:
    """A pool with where it comes from."""

    manifest: HistoryManifest
    pool: HistoryPool

    def files(self) -> dict[str, str | bytes]:
        """The pool as the files of its folder."""
        return {HISTORY_MANIFEST: self.manifest.to_yaml(), TENSORS: save(network_tensors(self.pool))}

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a trained pool.

        Raises:
            GeneratorError: the folder is missing, damaged, or holds something else.
        """
        with reading_folder(folder, "history", what="attention pool"):
            manifest = HistoryManifest.from_yaml(folder / HISTORY_MANIFEST)
            tensors, _ = read_tensors(folder / TENSORS)
            require_shapes(tensors, {"network.norm.weight": (None,)})
            size = len(tensors["network.norm.weight"])
            return cls(manifest, load_network(lambda: HistoryPool(size, manifest.pool), tensors))


def find_pool(beside: Path, zoo: Zoo, encoder: TextEncoder) -> TrainedPool | None:
    """The trained pool beside a generator's folder; `None` where there is none.

    Args:
        beside: the folder that the generator's folder lies in.
        zoo: the whole zoo that the generator draws on.
        encoder: embeds descriptions.

    Raises:
        GeneratorError: the pool is damaged, or was trained with another encoder, or on experts that have been changed.
    """
    if not is_file(beside / HISTORY / HISTORY_MANIFEST):
        return None
    found = TrainedPool.load(beside / HISTORY)
    what = f"The pool of {beside / HISTORY}"
    behind_of(found.manifest, found.manifest.experts, zoo.drawn_on, what=what)
    check_encoder(found.manifest, encoder, what=what)
    return found
