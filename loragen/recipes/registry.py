"""The registry of recipes: one row each, from which settings, help and training follow.

A new recipe is one file in `methods/` and one row of `ROWS`. Every recipe ends in an adapter of at most the rank asked
for, over the base as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SerializeAsAny

from loragen.errors import shown
from loragen.recipes.expert import Expert, ExpertRecipe
from loragen.recipes.methods.allora import ALLoRA, train_allora
from loragen.recipes.methods.altlora import AltLoRARecipe, train_altlora
from loragen.recipes.methods.codyra import Codyra, train_codyra
from loragen.recipes.methods.dylora import Dylora, train_dylora
from loragen.recipes.methods.label_head import LabelHead
from loragen.recipes.methods.lora import LoraBoth, train_both, train_lora
from loragen.recipes.methods.lora_ga import LoraGA, train_lora_ga
from loragen.recipes.methods.lora_sb import LoraSB, train_sb
from loragen.recipes.methods.loram import Loram, train_loram
from loragen.recipes.methods.peft_start import PeftStart, train_from_peft
from loragen.recipes.methods.rslora_high import RsLoraHigh, train_rslora_high
from loragen.recipes.methods.sora import Sora, train_sora
from loragen.recipes.methods.squeeze import SqueezeRecipe, train_squeeze
from loragen.recipes.setting import Setting

Axis = Literal["rank", "optimisation", "initialisation", "architecture"]
"""What a recipe changes in plain LoRA: the axes of the LoRAFactory study (arXiv 2601.22708), with "architecture" for
its mixtures of experts and for heads."""


@dataclass(frozen=True)
class Row:
    """One recipe."""

    name: str
    about: str
    """A few words for the help."""
    axis: Axis
    source: str
    """Paper, by its arXiv number."""
    settings: type[ExpertRecipe]
    train: Callable[[Setting, Any], Expert]
    """From a task made ready, and settings of this recipe, to an expert."""
    keeps_frame: bool = False
    """True if A is the zoo's and is not trained: all experts share it, and B's way is kept along with them."""
    makes_start: bool = False
    """True if it begins at factors of its own, so that a zoo's frame and start would be ignored."""
    frame: Callable[[Any], str] | None = None
    """From settings to the value of a zoo's ``frame`` that they go with, where they decide it."""


ROWS = (
    Row(
        "lora",
        "B alone over one frozen A that all experts of the zoo share, the default",
        "optimisation",
        "2106.09685",
        ExpertRecipe,
        train_lora,
        keeps_frame=True,
    ),
    Row("lora_both", "A and B, as PEFT trains them", "optimisation", "2106.09685", LoraBoth, train_both),
    Row(
        "lora_ga",
        "A and B from the singular vectors of the loss's gradient",
        "initialisation",
        "2407.05000",
        LoraGA,
        train_lora_ga,
        makes_start=True,
    ),
    Row(
        "peft",
        "A and B from an initialisation of PEFT: PiSSA, OLoRA, EVA, CorDA, MiCA and more",
        "initialisation",
        "2404.02948",
        PeftStart,
        train_from_peft,
        makes_start=True,
    ),
    Row(
        "label_head",
        "B alone, as lora, against label texts embedded by the base alone (LingoCL)",
        "architecture",
        "2403.16124",
        LabelHead,
        train_lora,
        keeps_frame=True,
    ),
    Row(
        "allora",
        "A and B, with larger gradients in rows where the update is small (ALLoRA)",
        "optimisation",
        "2410.09692",
        ALLoRA,
        train_allora,
    ),
    Row(
        "altlora",
        "A and B in turn, each preconditioned by the other (AltLoRA and AltLoRA+)",
        "optimisation",
        "2505.12455",
        AltLoRARecipe,
        train_altlora,
    ),
    Row("sora", "A, B and a gate that a threshold makes sparse: a rank a site", "rank", "2311.11696", Sora, train_sora),
    Row("codyra", "SoRA's gate, dense at first, then sparse", "rank", "2412.01004", Codyra, train_codyra),
    Row("dylora", "nested ranks, of which any first ones are an adapter", "rank", "2210.07558", Dylora, train_dylora),
    Row(
        "squeeze",
        "A and B at a high rank, which is lowered in stages or at the end",
        "rank",
        "2602.10993",
        SqueezeRecipe,
        train_squeeze,
    ),
    Row(
        "rslora_high",
        "A and B at a high rank in all linear modules, scaled by alpha / √r",
        "rank",
        "2312.03732",
        RsLoraHigh,
        train_rslora_high,
    ),
    Row(
        "loram",
        "A and B on a pruned copy of the base, recovered for the full one",
        "optimisation",
        "2502.13533",
        Loram,
        train_loram,
    ),
    Row(
        "lora_sb",
        "an r x r core between bases that come of first gradients, a task's own or shared by the zoo",
        "initialisation",
        "2411.19557",
        LoraSB,
        train_sb,
        frame=lambda recipe: recipe.frame,
    ),
)


def rows() -> dict[str, Row]:
    """The rows by name."""
    return {row.name: row for row in ROWS}


def row_of(recipe: ExpertRecipe) -> Row:
    """The row of some settings."""
    return rows()[recipe.name]


def wanted_frame(recipe: ExpertRecipe) -> str | None:
    """The value of a zoo's ``frame`` that alone goes with some settings, with ``start: zero``; None where any does."""
    row = row_of(recipe)
    if row.frame is not None:
        return row.frame(recipe)
    return "random" if row.makes_start else None


def recipe_from(values: Any) -> Any:
    """Plain values as the settings of the recipe that they name; anything else, settings too, stays as it is.

    Raises:
        ValueError: there is no such recipe, or the values do not fit it.
    """
    if not isinstance(values, dict):
        return values
    name = values.get("name", ExpertRecipe.model_fields["name"].default)
    row = rows().get(name) if isinstance(name, str) else None
    if row is None:
        raise ValueError(f"there is no recipe {shown(name)}; choose one of {', '.join(rows())}")
    return row.settings.model_validate(values)


AnyRecipe = Annotated[SerializeAsAny[ExpertRecipe], BeforeValidator(recipe_from)]
"""A field for the settings of any recipe; ``name`` says which."""
