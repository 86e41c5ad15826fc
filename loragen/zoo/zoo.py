"""A zoo on disk: expert adapters of one base, each with a card, training variance and snapshots; and folds, if any."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.adapters.tensor_file import read_tensors
from loragen.bases.base import Base
from loragen.bases.devices import DeviceName
from loragen.bases.open import open_base
from loragen.bases.scores import shown_scores
from loragen.bundled import bundled_folder, zoo_folders
from loragen.errors import AdapterError, ConfigError, ZooError, cut, shown
from loragen.files import sha256_of
from loragen.paths import is_file
from loragen.recipes.registry import row_of
from loragen.values import LONGEST_NAME
from loragen.zoo.card import (
    EXPERTS,
    MULTITASK_FOLDER,
    SNAPSHOTS,
    VARIANCE,
    ZOO_MANIFEST,
    Card,
    Manifest,
)
from loragen.zoo.card_table import CardTable
from loragen.zoo.cards import met, narrowed, read_cards
from loragen.zoo.changes import fingerprint_of
from loragen.zoo.folds import FOLDS, Fold, fold_folders, read_fold, read_folds
from loragen.zoo.shards import SHARDS, ShardedExperts, file_hash

SPLIT = "experts"
"""Split of a zoo that generators draw on, and no other; experts of other splits are there for choosing settings."""
_RESTORE = "restore it, or remove its folder and build again."
_SILENT = "all delta weights are zero: the adapter does nothing"


def folder_of(root: Path | None) -> Path:
    """The folder of a zoo: that itself or, where there is none, what has the name; by default the bundled zoo's.

    Raises:
        ZooError: there is neither.
    """
    if root is None:
        return default_zoo()
    if is_file(root / ZOO_MANIFEST):
        return root
    known = zoo_folders()
    if (named := known.get(str(root))) is not None and is_file(named / ZOO_MANIFEST):
        return named
    raise ZooError(
        f"There is no zoo in {cut(root)} (no {ZOO_MANIFEST}), and none by that name (known: {', '.join(known)}); build "
        "one with `loragen zoo build CONFIG`."
    )


def default_zoo() -> Path:
    """The bundled zoo: inside an installed wheel, or at the top of a source tree."""
    return bundled_folder("zoo") / "minilm"


@dataclass(frozen=True)
class Zoo:
    """The experts of one folder, or a selection of them; adapters are read when asked for.

    An expert has a folder of its own or, in a packed zoo, a row of a table and a row of a shard.
    """

    root: Path
    manifest: Manifest
    cards: Mapping[str, Card]

    @classmethod
    def open(cls, root: Path | None = None) -> "Zoo":
        """Read the manifest and all cards of a zoo: a folder, or one by name; by default the bundled one for texts.

        Of a packed zoo the ids are read; a card is read when it is asked for.

        Raises:
            ZooError: there is no zoo, or its manifest or a card is damaged.
        """
        root = folder_of(root)
        try:
            manifest = Manifest.from_yaml(root / ZOO_MANIFEST)
        except ConfigError as error:
            raise ZooError(f"The zoo's manifest is damaged; restore it, or build elsewhere.\n{error}") from error
        return cls(root, manifest, read_cards(root))

    def __len__(self) -> int:
        return len(self.cards)

    def __iter__(self) -> Iterator[Card]:
        return iter(self.cards.values())

    @property
    def ids(self) -> tuple[str, ...]:
        """Expert ids in alphabetical order: the row order of everything computed over a zoo."""
        return tuple(self.cards)

    def score_titles(self) -> dict[str, str]:
        """Names and short titles of the scores that matter most for these experts."""
        return shown_scores(card.after for card in self)

    def select(
        self,
        *,
        splits: Collection[str] | None = None,
        licences: Collection[str] | None = None,
        without: Collection[str] = (),
    ) -> "Zoo":
        """Keep the experts of these splits and licences, without some by id.

        Licences are compared whole, upper and lower case alike.

        Raises:
            ZooError: none is left.
        """
        kept = narrowed(self.cards, splits, licences, without)
        if not kept:
            asked = {"licences": licences, "splits": splits, "without": without or None}
            what = ", ".join(f"{name} {sorted(values)}" for name, values in asked.items() if values is not None)
            there = met(self.cards, "split" if licences is None else "licence")
            raise ZooError(
                f"No expert of the zoo in {self.root} is left for {what or 'any use'}; "
                f"it holds: {'; '.join(there) or 'no expert at all'}."
            )
        return replace(self, cards=kept)

    def card(self, expert: str) -> Card:
        """The card of an expert.

        Raises:
            ZooError: the zoo has no such expert.
        """
        if expert not in self.cards:
            from difflib import get_close_matches

            near = get_close_matches(expert[:LONGEST_NAME], self.cards, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "; `loragen zoo list` shows all."
            raise ZooError(f"The zoo in {self.root} has no expert {shown(expert)}{hint}")
        return self.cards[expert]

    def folder(self, expert: str) -> Path:
        """The folder of an expert, which those of a packed zoo do not have."""
        return self.root / EXPERTS / self.card(expert).id

    @cached_property
    def sharded(self) -> ShardedExperts | None:
        """The weights of a packed zoo; `None` where each expert has a folder."""
        return ShardedExperts.open(self.root, self.cards) if isinstance(self.cards, CardTable) else None

    def adapter(self, expert: str) -> Lora:
        """Read an expert's adapter."""
        if self.sharded is None:
            return Lora.load(self.folder(expert))
        if expert not in self.cards:
            self.card(expert)
        return self.sharded.adapter(expert)

    def _has_statistics(self, expert: str) -> bool:
        return self.sharded is None and self.card(expert).has_trajectory

    def multitask(self) -> Lora:
        """The one adapter that was trained on all experts' tasks together.

        Raises:
            AdapterError: the zoo has none, or a damaged one.
        """
        return Lora.load(self.root / MULTITASK_FOLDER)

    def load_base(self, *, dtype: torch.dtype = torch.float32, device: DeviceName = "cpu") -> Base:
        """Load the base that the experts adapt.

        Raises:
            ConfigError: there is no such model, or it has other weights than the experts were trained on.
        """
        recipe = self.manifest.recipe
        base = open_base(
            self.manifest.base,
            objective=recipe.objective,
            prompt=recipe.wording,
            dtype=dtype,
            device=device,
            label_targets=recipe.label_targets,
        )
        if self.manifest.base_hash and base.fingerprint != self.manifest.base_hash:
            raise ConfigError(
                f"The base {self.manifest.base} has other weights here ({base.fingerprint[:12]}) than the zoo "
                f"{self.root} was trained on ({self.manifest.base_hash[:12]}); restore them."
            )
        return base

    def folds(self) -> tuple[Fold, ...]:
        """The multi-task adapters that have each not seen some tasks, in the order of their numbers; none in some zoos.

        Raises:
            ZooError: a fold is missing, or its plan is damaged.
            AdapterError: the adapter of a fold is damaged.
        """
        if missing := self.missing_folds():
            raise ZooError(
                f"The zoo in {self.root} has no {', '.join(missing)}; build it again to train what is missing."
            )
        return read_folds(self.root / FOLDS)

    def missing_folds(self) -> list[str]:
        """Names of folds that its manifest promises and that are not there, such as ``folds/0``."""
        names = [f"{FOLDS}/{k}" for k in range(self.manifest.folds.number)] if self.manifest.folds else []
        return [name for name in names if not (self.root / name).is_dir()]

    def variance(self, expert: str) -> dict[str, Tensor]:
        """Site → variance of B over the last steps of training, float32 (out, r); zero where that is not known."""
        if not self._has_statistics(expert):
            return {site: torch.zeros_like(b, dtype=torch.float32) for site, b in self.adapter(expert).lora_B.items()}
        return _statistics(self.folder(expert) / VARIANCE, self.adapter(expert), points=False)

    def snapshots(self, expert: str) -> dict[str, Tensor]:
        """Site → points of B in training, float32 (snapshots, out, r); the adapter alone where none are known."""
        if not self._has_statistics(expert):
            return {site: b.float()[None] for site, b in self.adapter(expert).lora_B.items()}
        return _statistics(self.folder(expert) / SNAPSHOTS, self.adapter(expert), points=True)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids and adapter files of the experts selected: outputs name the zoo they come from by it.

        Raises:
            ZooError: a file is missing.
        """
        return fingerprint_of(self.hashes)

    @cached_property
    def hashes(self) -> Mapping[str, str]:
        """Id → SHA-256 of the adapter's file, of the experts selected, in any order.

        Raises:
            ZooError: a file is missing.
        """
        if isinstance(self.cards, CardTable):
            known = self.cards.hashes()
            if not all(map(known.__contains__, self.ids)):
                missing = next(name for name in self.ids if name not in known)
                raise ZooError(f"The expert {missing} was removed from {self.root} meanwhile; open the zoo again.")
            return known if len(known) == len(self.ids) else {name: known[name] for name in self.ids}
        return {name: self._file_hash(name) for name in self.ids}

    def _file_hash(self, expert: str) -> str:
        path = self.folder(expert) / WEIGHTS_NAME
        try:
            return sha256_of(path)
        except (OSError, ConfigError) as error:
            raise ZooError(f"{path} cannot be read ({cut(error)}); {_RESTORE}") from error

    @cached_property
    def drawn_on(self) -> "Zoo":
        """The experts that generators draw on: those of the split ``experts``.

        Raises:
            ZooError: there is none.
        """
        return self.select(splits={SPLIT})

    def check(self) -> Iterator[tuple[str, str | None]]:
        """Verify that the files of every expert and fold are whole and fit the zoo.

        Yields ids, for folds such as ``folds/0``, with what is wrong, if anything.
        """
        reference, in_rank = None, row_of(self.manifest.recipe).keeps_frame
        for card in self:
            try:
                adapter = self.adapter(card.id)
                reference = reference or adapter.spec
                yield card.id, adapter.spec.difference(reference, in_rank=in_rank) or self._fault(card, adapter)
            except (AdapterError, ZooError) as error:
                yield card.id, str(error)
        for folder in fold_folders(self.root / FOLDS):
            name = f"{FOLDS}/{folder.name}"
            try:
                adapter = read_fold(folder).adapter
                reference = reference or adapter.spec
                yield name, adapter.spec.difference(reference, in_rank=in_rank) or self._fold_fault(adapter)
            except (AdapterError, ZooError) as error:
                yield name, str(error)
        for name in self.missing_folds():
            yield name, "missing; build the zoo again to train it"

    def _fold_fault(self, adapter: Lora) -> str | None:
        base = adapter.settings.base
        if base != self.manifest.base:
            return f"trained on the base {base}, the zoo's is {self.manifest.base}"
        return _SILENT if adapter.norm() == 0 else None

    def _fault(self, card: Card, adapter: Lora) -> str | None:
        if card.base_hash != self.manifest.base_hash:
            return f"trained on a base with weights {card.base_hash[:12]}, the zoo's is {self.manifest.base_hash[:12]}"
        if adapter.norm() == 0:
            return _SILENT
        if self.sharded is not None and file_hash(adapter) != self.sharded.table.place(card.id).sha256:
            return f"{SHARDS} hold other weights than were packed"
        self.variance(card.id), self.snapshots(card.id)  # which are refused where they do not fit
        return None


def _statistics(path: Path, adapter: Lora, *, points: bool) -> dict[str, Tensor]:
    """Site → statistics of an expert's training, float32 of the shape of its B, or with ``points`` (n, out, r).

    Raises:
        ZooError: the file cannot be read, or does not fit the adapter.
    """
    tensors = {site: values.float() for site, values in read_tensors(path)[0].items()}
    if strange := sorted(tensors.keys() ^ set(adapter.sites)):
        raise ZooError(
            f"{path} does not fit its adapter: statistics of {cut(strange[0])} are "
            f"{'missing' if strange[0] in adapter.lora_B else 'there, which it does not update'}; {_RESTORE}"
        )
    numbers = {len(values) for values in tensors.values() if values.ndim} if points else {1}
    for site, values in tensors.items():
        wanted, met = tuple(adapter.lora_B[site].shape), tuple(values.shape)
        if met[1:] != wanted if points else met != wanted:
            raise ZooError(f"{path}: statistics of {site} do not have the adapter's shape {wanted}; {_RESTORE}")
        if not points and (values < 0).any():
            raise ZooError(f"{path}: statistics of {site} hold a negative variance; {_RESTORE}")
    if len(numbers) != 1 or 0 in numbers:
        raise ZooError(f"{path} holds points of training that differ in number, or none; {_RESTORE}")
    return tensors
