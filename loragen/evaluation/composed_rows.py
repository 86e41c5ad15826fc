"""Dynamic compositions as rows: of the experts nearest to each task's description, or one for all tasks."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, field_validator

from loragen.compose.composed import Composed, load
from loragen.compose.composition import Composition
from loragen.compose.making import compose_experts
from loragen.compose.registry import row_named
from loragen.conditions.text_encoder import TextEncoder
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.values import MOST_PARTS
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo


class ComposedRows(StrictModel):
    """Rows of dynamic compositions."""

    methods: tuple[str, ...] = ("arrow", "mora")
    """Methods that compose the nearest experts of each task; those that want no labelled texts."""
    top_k: int = Field(4, ge=1, le=MOST_PARTS)
    """Experts of each task."""
    folders: dict[str, Path] = Field({}, max_length=MOST_PARTS)
    """Row → a dynamic composition on disk, which is the same for all tasks, such as one whose gates were trained."""

    @field_validator("methods")
    @classmethod
    def _are_dynamic_and_want_nothing(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        for name in methods:
            row = row_named(name)
            if not row.is_dynamic or row.needs_with(row.settings()) != "nothing":
                raise ValueError(f"{name} is static or wants labelled texts; name dynamic methods that want none")
        return methods

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows."""
        return (*map(self.row_of, self.methods), *self.folders)

    def row_of(self, method: str) -> str:
        """The row of a method that composes the nearest experts."""
        return f"{method} of {self.top_k}"


class ComposedForTasks:
    """The compositions of an evaluation's rows."""

    def __init__(self, settings: ComposedRows, zoo: Zoo, experts: Zoo, encoder: TextEncoder) -> None:
        self._methods = {settings.row_of(method): method for method in settings.methods}
        self._top_k, self._zoo, self._encoder = settings.top_k, zoo, encoder
        self._index = ExpertIndex.of(experts, encoder)
        self._fixed: Mapping[str, Composed] = {row: load(folder) for row, folder in settings.folders.items()}
        for row, composed in self._fixed.items():
            if composed.base != zoo.manifest.base or composed.base_hash not in (None, zoo.manifest.base_hash):
                raise ConfigError(
                    f"The composition {row!r} is of the base {composed.base}, the zoo of {zoo.manifest.base} or of "
                    "other weights; compose experts of this zoo."
                )

    def composition(self, row: str, description: str) -> Composition:
        """The composition of a row for a task in words."""
        if row in self._fixed:
            return self._fixed[row].composition
        query = self._encoder.encode([description])[0]
        nearest = self._index.neighbours(query, top_k=self._top_k, temperature=1.0)
        ids = sorted(neighbour.id for neighbour in nearest)
        made = compose_experts(ids, method=self._methods[row], zoo=self._zoo).adapter
        assert isinstance(made, Composed)
        return made.composition

    def digest(self, row: str) -> str:
        """Digest of what decides a row's compositions, beside the zoo and the encoder."""
        return composition_digest(self._fixed[row].composition) if row in self._fixed else f"{row}, untrained"


def composition_digest(composition: Composition) -> str:
    """Digest of a method, its settings, tensors and experts."""
    digest = hashlib.sha256(f"{composition.method} {composition.settings.model_dump_json()}".encode())
    for name, value in sorted(composition.tensors.items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    for site, at in composition.experts.sites.items():
        digest.update(f"{site} {at.ranks}".encode())
        digest.update(at.lora_A.contiguous().numpy().tobytes() + at.lora_B.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
