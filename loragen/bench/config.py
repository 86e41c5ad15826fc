"""Settings of `loragen bench recipes`: recipes, each at several learning rates, on the same tasks."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from loragen.bases.devices import DeviceName, DtypeName
from loragen.config import StrictModel
from loragen.errors import shown
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.registry import AnyRecipe
from loragen.values import MOST_EXAMPLES, MOST_PARTS, Name, Seed

LearningRate = Annotated[float, Field(gt=0, le=1e3)]
PLAIN = "lora_both"
"""Name of the recipe of plain LoRA, which the others are compared with."""
_GRID = ("learning_rate", "seed")
"""Settings of a recipe that the grid gives."""
_UNEVEN = 1.5
"""Steps between rates may differ by this factor on a logarithmic scale: 0.001, 0.003, 0.01 is even enough."""


class RecipeBenchConfig(StrictModel):
    """Settings of a comparison of recipes: every recipe at every learning rate, on every task, with every seed."""

    base: str
    tasks: Path
    """A task file, relative to where the command runs."""
    tasks_root: Path | None = None
    """Folder of the tasks' files, in place of the one that the task file names."""
    ids: tuple[Name, ...] = Field(min_length=1, max_length=MOST_PARTS)
    """Ids of the tasks; all of them have labels, or none has."""
    common: dict[str, Any] = Field(default_factory=dict)
    """Settings that every recipe is given, unless its own say otherwise."""
    recipes: tuple[AnyRecipe, ...] = Field(min_length=1, max_length=MOST_PARTS)
    """Names of recipes, or mappings with ``name`` and options; one recipe may stand here with several options."""
    learning_rates: tuple[LearningRate, ...] = Field(min_length=3, max_length=MOST_PARTS)
    """In rising order and evenly spaced on a logarithmic scale; four or more are wanted for a curve."""
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, max_length=MOST_PARTS)
    """Each draws the start, the held-out slice and the batches, the same for all recipes."""
    test_texts: int = Field(400, ge=20, le=MOST_EXAMPLES)
    """Test texts of a task that are scored, always the same ones; all where there are fewer."""
    out: Path
    dtype: DtypeName = "auto"
    device: DeviceName = "cpu"

    @model_validator(mode="before")
    @classmethod
    def _with_common(cls, values: Any) -> Any:
        """Every recipe as one mapping of the common settings and its own."""
        if not isinstance(values, dict):
            return values
        common, recipes = values.get("common", {}), values.get("recipes")
        if not isinstance(common, dict) or not isinstance(recipes, list | tuple):
            return values
        merged = [{"name": one} if isinstance(one, str) else one for one in recipes]
        for where in (common, *merged):
            if isinstance(where, dict) and (met := [name for name in _GRID if name in where]):
                raise ValueError(f"{met[0]!r} of a recipe comes from '{met[0]}s' here; remove it from the recipe")
        return {**values, "recipes": [{**common, **one} if isinstance(one, dict) else one for one in merged]}

    @field_validator("learning_rates")
    @classmethod
    def _are_log_spaced(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        steps = [math.log(after / before) for before, after in pairwise(rates)]
        if min(steps) <= 0:
            raise ValueError("wanted in rising order, each once")
        if max(steps) > _UNEVEN * min(steps):
            raise ValueError("wanted evenly spaced on a logarithmic scale, such as 0.001, 0.003, 0.01, 0.03")
        return rates

    @field_validator("ids", "seeds")
    @classmethod
    def _are_different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) < len(values):
            raise ValueError("wanted each once")
        return values

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if len({(one.objective, one.wording) for one in self.recipes}) > 1:
            raise ValueError("the recipes have different objectives, prompts or chats; one base reads tasks one way")
        labels_of(self.recipes)
        return self

    @field_serializer("recipes")
    def _without_grid(self, recipes: tuple[ExpertRecipe, ...]) -> list[dict[str, Any]]:
        return [one.model_dump(mode="json", exclude=set(_GRID)) for one in recipes]

    @property
    def labelled(self) -> dict[str, ExpertRecipe]:
        """Label → settings; see `labels_of`."""
        return dict(zip(labels_of(self.recipes), self.recipes, strict=True))

    @property
    def reference(self) -> str:
        """Label of plain LoRA, which the others are compared with; the first recipe where it is not among them."""
        labels = self.labelled
        return next((label for label, one in labels.items() if one.name == PLAIN), next(iter(labels)))


def labels_of(recipes: Iterable[ExpertRecipe]) -> list[str]:
    """What recipes are called in tables: their names, with the options in which recipes of one name differ.

    Raises:
        ValueError: two of them do not differ.
    """
    every = list(recipes)
    dumped = [dict(_flat(one.model_dump(mode="json", exclude=set(_GRID)))) for one in every]
    labels = []
    for own in dumped:
        others = [other for other in dumped if other["name"] == own["name"]]
        differing = [key for key in own if any(other.get(key) != own[key] for other in others)]
        labels.append(" ".join([own["name"], *(f"{key}={own[key]}" for key in differing)]))
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"the recipe {shown(twice)} stands there more than once with the same settings")
    return labels


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by dotted keys."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value
