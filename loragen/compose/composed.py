"""Compositions in use: experts and a gate over their base, as a value that is used like an adapter."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import final

from loragen.bases.base import Base, LabelTargets
from loragen.bases.hub import resolve_model
from loragen.bases.language_model import with_wording
from loragen.bases.open import objective_of, open_base
from loragen.bases.text_encoder import with_label_targets
from loragen.bases.usable import Usable
from loragen.bases.wording import PROMPT, Chat, Wording
from loragen.compose.composition import Composition
from loragen.compose.stored import is_composition, read_composition, write_composition
from loragen.errors import AdapterError
from loragen.inference import Adapter


@final
@dataclass(frozen=True, eq=False)
class Composed(Usable):
    """A composition with the name of its base, and what is known of its task; the base is loaded when it is needed."""

    composition: Composition
    base: str
    """Folder or Hub name of the base model."""
    labels: tuple[str, ...] = ()
    description: str | None = None
    notes: tuple[str, ...] = ()
    wording: Wording = PROMPT
    may_fetch_base: bool = True
    label_targets: LabelTargets = "moving"
    base_hash: str | None = None
    """Hash of the base's weights, where gates were trained on it."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """What was met as it was made."""

    @property
    def switched(self) -> Composition:
        """The composition."""
        return self.composition

    @property
    def card(self) -> None:
        """None: it was not generated."""
        return None

    @cached_property
    def opened_base(self) -> Base:
        """The base model, loaded.

        Raises:
            ConfigError: it is not at hand.
            AdapterError: gates were trained on other weights.
        """
        task_type, may_fetch = self.composition.experts.task_type, self.may_fetch_base
        folder = None if task_type else resolve_model(self.base, may_fetch=may_fetch)
        base = open_base(
            self.base,
            objective=objective_of(task_type, folder),
            prompt=self.wording,
            may_fetch=may_fetch,
            label_targets=self.label_targets,
        )
        self.check_base(base)
        return base

    def check_base(self, base: Base) -> None:
        """Refuse a base of other weights than the gates were trained on.

        Raises:
            AdapterError: it is one.
        """
        if self.base_hash not in (None, base.fingerprint):
            raise AdapterError(
                f"The gates were trained on weights {str(self.base_hash)[:12]}, those of {base.name} are "
                f"{base.fingerprint[:12]}; give the base that they were trained on, or compose again."
            )

    def with_base(self, base: Base) -> "Composed":
        """The same composition over a base that is loaded already."""
        self.check_base(base)
        other = replace(self, base=base.name)
        other.__dict__["opened_base"] = with_wording(with_label_targets(base, self.label_targets), self.wording)
        return other

    def over(self, base: str) -> "Composed":
        """The same composition over a base of another name, which may be fetched."""
        return replace(self, base=base, may_fetch_base=True)

    def save(self, folder: Path | str, *, force: bool = False) -> None:
        """Write the folder of the composition, and read it back.

        Raises:
            ConfigError: the folder is there already, and ``force`` is not set.
            AdapterError: it came back other than it was written.
        """
        wording = self.wording.model_dump() if isinstance(self.wording, Chat) else self.wording
        facts = {
            "base": self.base,
            "base_hash": self.base_hash,
            "description": self.description,
            "labels": self.labels,
            "wording": None if wording == PROMPT else wording,
            "label_targets": self.label_targets,
            "facts": dict(self.facts),
        }
        write_composition(Path(folder), self.composition, facts, force=force)


def load(folder: Path | str, *, base: str | None = None) -> Composed:
    """Read the folder of a dynamic composition.

    Args:
        folder: of the composition.
        base: stands in for the base that it names, and is fetched if need be.

    Raises:
        AdapterError: there is no composition, or it is damaged.
    """
    manifest, composition = read_composition(Path(folder))
    composed = Composed(
        composition,
        manifest.base,
        manifest.labels,
        manifest.description,
        wording=manifest.wording or PROMPT,
        may_fetch_base=False,
        label_targets=manifest.label_targets,
        base_hash=manifest.base_hash,
        facts=manifest.facts,
    )
    return composed if base is None else composed.over(base)


def open_adapter(folder: Path | str, *, base: str | None = None) -> Adapter | Composed:
    """Read an adapter folder, or that of a dynamic composition; both are used alike.

    Raises:
        AdapterError: the folder is missing, damaged, or holds something unsupported.
        ConfigError: neither the folder nor ``base`` names a base model.
    """
    return load(folder, base=base) if is_composition(Path(folder)) else Adapter.load(folder, base=base)
