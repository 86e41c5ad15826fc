"""The manifest of a zoo and the cards of its experts."""

from typing import Any, Literal

from safetensors.torch import save

from loragen.adapters.adapter import Lora
from loragen.bases.scores import AnyScores
from loragen.config import StrictModel, dump_yaml
from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.multitask import MultitaskRecipe
from loragen.tasks.task_set import Task
from loragen.zoo.folds import FoldRecipe

MANIFEST = "zoo.yaml"


MULTITASK = "multitask"


VARIANCE = "variance.safetensors"


SNAPSHOTS = "snapshots.safetensors"


class Manifest(StrictModel):
    """What all experts of a zoo have in common."""

    name: str
    base: str
    base_hash: str
    """Hash of the base's weights file; empty where adapters come from elsewhere, with a base known by name alone."""
    frame: Literal["random", "multitask", "fitted"]
    """Where the shared A comes from; ``fitted`` to adapters that were trained elsewhere."""
    start: Literal["zero", "multitask", "folds", "elsewhere"]
    """Where B begins."""
    recipe: ExpertRecipe
    """Of a zoo of adapters from elsewhere: objective, rank, target modules and lengths; the rest has no meaning."""
    multitask: MultitaskRecipe
    folds: FoldRecipe | None = None
    """None where the zoo has no folds."""


class Imported(StrictModel):
    """What an adapter was before it was brought into the frame of a zoo."""

    r: int
    """Largest rank of a site."""
    lora_alpha: float
    use_rslora: bool
    energy_kept: float
    """Share of the squared Frobenius norm of its delta weights that the frame holds."""
    missing: tuple[str, ...]
    """Sites that other adapters of the zoo update and it does not; they are zero."""


class Card(StrictModel):
    """What is known of one expert."""

    id: str
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
    recipe: ExpertRecipe | None
    """None for an adapter that was trained elsewhere."""
    steps: int
    """Length of training, chosen on a slice of the train file."""
    held_out_losses: dict[int, float]
    seconds: float
    dtype: str
    """In which the frozen base computed."""
    versions: dict[str, str]
    imported: Imported | None = None
    """None for an expert that was trained for the zoo."""
    before: AnyScores | None = None
    """The bare base on the test file."""
    after: AnyScores | None = None
    """The expert on the test file."""

    @property
    def descriptions(self) -> tuple[str, ...]:
        """The description and its paraphrases."""
        return (self.description, *self.paraphrases)

    @classmethod
    def of(cls, task: Task, expert: Expert, manifest: Manifest, **facts: Any) -> "Card":
        """Describe a freshly trained expert."""
        shared = (
            "id",
            "description",
            "paraphrases",
            "labels",
            "family",
            "domain",
            "kind",
            "licence",
            "origin",
            "commit",
        )
        return cls(
            **{name: getattr(task, name) for name in shared},
            base=manifest.base,
            base_hash=manifest.base_hash,
            recipe=manifest.recipe,
            steps=expert.steps,
            held_out_losses={step: round(loss, 5) for step, loss in expert.held_out_losses.items()},
            **facts,
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
    return adapter, {
        "card.yaml": card_text(card),
        VARIANCE: save({site: v.bfloat16().contiguous() for site, v in expert.variance.items()}),
        SNAPSHOTS: save({site: s.bfloat16().contiguous() for site, s in expert.snapshots.items()}),
    }


def card_text(card: Card) -> str:
    """A card as YAML."""
    return dump_yaml(card.model_dump(mode="json"))
