"""The manifest of a zoo and the cards of its experts."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from safetensors.torch import save

from loragen.adapters.adapter import Lora
from loragen.bases.scores import AnyScores
from loragen.config import StrictModel
from loragen.recipes.expert import Expert
from loragen.recipes.multitask import MultitaskRecipe
from loragen.recipes.registry import AnyRecipe, row_of
from loragen.tasks.task_set import Task
from loragen.values import LARGEST_LAYER, MOST_STEPS, PartName
from loragen.zoo.folds import FoldRecipe

ZOO_MANIFEST = "zoo.yaml"
"""File of a zoo that holds its `Manifest`."""
EXPERTS = "experts"
"""Folder of a zoo for its experts, a folder each."""
CARD = "card.yaml"
"""File of an expert that holds its `Card`."""
MULTITASK_FOLDER = "multitask"
"""Folder of a zoo for the one adapter that was trained on all experts' tasks together."""
VARIANCE = "variance.safetensors"
"""File of an expert for the variance of B over the last steps of training."""
SNAPSHOTS = "snapshots.safetensors"
"""File of an expert for some points of B in training."""

_OF_TASK = ("id", "description", "paraphrases", "labels", "family", "domain", "kind", "licence", "origin", "commit")
_FLAT = ("recipe", "steps", "held_out_losses", "seconds", "dtype")


class Manifest(StrictModel):
    """Settings that all experts of a zoo have in common."""

    name: str
    base: str
    base_hash: str
    """Hash of the base's weights file; empty where adapters come from elsewhere, with a base known by name alone."""
    frame: Literal["random", "multitask", "gradients", "fitted"]
    """Origin of the shared A; ``fitted`` to adapters that were trained elsewhere; with ``gradients`` a basis of what is
    written is shared as well."""
    start: Literal["zero", "multitask", "folds", "elsewhere"]
    """Origin of the B that training begins with."""
    recipe: AnyRecipe
    """Of a zoo of adapters from elsewhere: objective, rank, target modules and lengths; the rest has no meaning."""
    multitask: MultitaskRecipe
    folds: FoldRecipe | None = None
    """None where the zoo has no folds."""
    generator: str | None = None
    """The one that is used where none is named; None: sg or, on a zoo without it, the only one trained there."""


class Trained(StrictModel):
    """Training of an expert that was trained for its zoo."""

    kind: Literal["trained"] = "trained"
    recipe: AnyRecipe
    steps: int = Field(ge=0, le=MOST_STEPS)
    """Length of training, chosen on a slice of the train file."""
    held_out_losses: dict[int, float]
    """Length → loss on that slice."""
    seconds: float
    dtype: str
    """Precision in which the frozen base computed."""
    energy_kept: float | None = None
    """Share of the trained update's squared Frobenius norm that the rank asked for holds; None if nothing was cut."""


class Imported(StrictModel):
    """Facts of an adapter from elsewhere, and of its place in the frame of a zoo."""

    kind: Literal["imported"] = "imported"
    r: int = Field(ge=1, le=LARGEST_LAYER)
    """Largest rank of a site."""
    lora_alpha: float
    use_rslora: bool
    energy_kept: float
    """Share of the squared Frobenius norm of its delta weights that the frame holds."""
    missing: tuple[str, ...]
    """Sites that other adapters of the zoo update and it does not; they are zero."""
    commit: str = ""
    """Of its repository on the Hub; empty where it came from a folder."""
    sha256: str = ""
    """Of the weights file that it was read from; empty on older cards."""


class Card(StrictModel):
    """Facts of one expert."""

    id: PartName
    split: str
    description: str
    paraphrases: tuple[str, ...] = ()
    labels: tuple[str, ...]
    family: str = ""
    domain: str = ""
    kind: str = ""
    licence: str
    origin: str = ""
    commit: str = ""
    base: str
    base_hash: str
    provenance: Annotated[Trained | Imported, Field(discriminator="kind")]
    """Training for the zoo, or import from elsewhere."""
    versions: dict[str, str]
    before: AnyScores | None = None
    """The bare base on the test file."""
    after: AnyScores | None = None
    """The expert on the test file."""

    @model_validator(mode="before")
    @classmethod
    def _reads_older_cards(cls, values: Any) -> Any:
        """Gather the fields that older cards hold side by side, those of a training and those of an import."""
        if not isinstance(values, dict) or "provenance" in values or not any(name in values for name in _FLAT):
            return values
        kept = {name: value for name, value in values.items() if name not in (*_FLAT, "imported")}
        imported = values.get("imported")
        if imported is not None:
            return kept | {"provenance": {"kind": "imported", **imported} if isinstance(imported, dict) else imported}
        trained = {name: values[name] for name in _FLAT if name in values}
        return kept | {"provenance": {"kind": "trained", **trained}}

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The description and its paraphrases."""
        return (self.description, *self.paraphrases)

    @property
    def has_trajectory(self) -> bool:
        """True for an expert trained over the zoo's own A: the points and the variance of its training are known."""
        return self.provenance.kind == "trained" and row_of(self.provenance.recipe).keeps_frame

    @classmethod
    def of(
        cls,
        task: Task,
        expert: Expert,
        manifest: Manifest,
        *,
        split: str,
        seconds: float,
        dtype: str,
        versions: Mapping[str, str],
        before: AnyScores | None = None,
        after: AnyScores | None = None,
    ) -> "Card":
        """Describe a freshly trained expert."""
        trained = Trained(
            recipe=manifest.recipe,
            steps=expert.steps,
            held_out_losses={step: round(loss, 5) for step, loss in expert.held_out_losses.items()},
            seconds=seconds,
            dtype=dtype,
            energy_kept=None if expert.energy_kept is None else round(expert.energy_kept, 6),
        )
        return cls(
            **{name: getattr(task, name) for name in _OF_TASK},
            split=split,
            base=manifest.base,
            base_hash=manifest.base_hash,
            provenance=trained,
            versions=dict(versions),
            before=before,
            after=after,
        )


def expert_files(expert: Expert, card: Card) -> tuple[Lora, dict[str, str | bytes]]:
    """An expert as its adapter (bfloat16) and the other files of its folder."""
    adapter = Lora.from_factors(
        {site: a.bfloat16() for site, a in expert.lora_A.items()},
        {site: b.bfloat16() for site, b in expert.mean.items()},
        base_model_name_or_path=card.base,
        task_type=expert.task_type,
        fan_in_fan_out=expert.fan_in_fan_out,
    )
    files: dict[str, str | bytes] = {CARD: card.to_yaml()}
    if expert.snapshots:
        files[VARIANCE] = save({site: v.bfloat16().contiguous() for site, v in expert.variance.items()})
        files[SNAPSHOTS] = save({site: s.bfloat16().contiguous() for site, s in expert.snapshots.items()})
    return adapter, files
