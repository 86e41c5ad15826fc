"""Settings of an evaluation of generators, as the YAML file of `loragen evaluate` holds them."""

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from loragen.bases.devices import DeviceName, DtypeName
from loragen.config import StrictModel
from loragen.evaluation.cells import ALL
from loragen.evaluation.composed_rows import ComposedRows
from loragen.generation import ENCODER
from loragen.recipes.few_shot import FewShotRecipe
from loragen.values import MOST_EXAMPLES, MOST_PARTS, Seed

BASE, MULTITASK, INSTRUCTED, ORACLE = "base", "multi-task LoRA", "instructed LoRA", "oracle"
TOLD = "base, told the task"
"""The base with the description in its prompt, where it is a language model."""
"""Names of the methods that are no generators."""
TOPK = "topk"
"""Name of the generator whose merges all others are compared with."""
RANDOM = "random experts"
"""Name of the method that merges experts drawn at random, as many as topk, with its weights and its norm."""


def mean_output(generator: str) -> str:
    """Name of the method that is the mean of what a generator makes for the experts' descriptions."""
    return f"mean output of {generator}"


class ConditionCheck(StrictModel):
    """What shows whether the description matters: rivals that do not read it, and adapters made for other tasks."""

    means: tuple[str, ...] = ("sg",)
    """Generators whose mean output is a row: one adapter for all tasks. They must be among those that are evaluated."""
    random_experts: bool = True
    """Adds a row of as many experts as topk merges, drawn at random; topk must be among the generators."""
    others: int = Field(10, ge=0, le=MOST_PARTS)
    """The most other tasks whose adapters a task's own is ranked among, for each generator; 0 leaves ranks out."""

    def needed(self) -> set[str]:
        """Generators that must be evaluated."""
        return {*self.means} | ({TOPK} if self.random_experts else set())


class FewShot(StrictModel):
    """Adapters that are fitted to a few labelled examples of the task, drawn from its train file anew for each seed.

    Beside them stands the multi-task LoRA, fitted to the same examples in the same way.
    """

    shots: int = Field(8, ge=1, le=MOST_EXAMPLES)
    """Examples of each class."""
    generators: tuple[str, ...] = ("sg",)
    """Generators whose adapters are fitted; they must be among those that are evaluated."""
    recipe: FewShotRecipe = FewShotRecipe()

    def method(self, start: str) -> str:
        """Name of the method that fits the adapters of another method."""
        return f"{start}, {self.shots} a class"


class EvaluateConfig(StrictModel):
    """Settings of an evaluation."""

    zoo: Path
    tasks: Path
    tasks_root: Path | None = None
    """Folder of the tasks' files, in place of the one that the task file names."""
    splits: tuple[str, ...] = Field(min_length=1)
    """Splits of the tasks to evaluate; no expert of the zoo may have been trained on any of their tasks."""
    unseen_families: tuple[str, ...] = ()
    """Splits for which no expert may even be of the same family."""
    generators: tuple[str, ...] = ("mean", "nearest", "uniform", "topk", "ridge", "sg", "icm")
    """By name, or by folder."""
    multitask: Path | None = None
    """The one LoRA for all experts' tasks; by default the one that the zoo's experts started from."""
    instructed: Path | None = None
    """A multi-task LoRA that was trained with the description before every text, and is evaluated so."""
    few_shot: FewShot | None = None
    """`None` leaves the methods fitted to examples out."""
    condition: ConditionCheck | None = None
    """`None` leaves out what shows whether the description matters, beside the controls."""
    compose: ComposedRows | None = None
    """`None` leaves dynamic compositions out."""
    fallback: bool = False
    """Adds a row for each generator whose gains are foretold: what is given out where little is expected of it."""
    oracles: Path
    """A zoo that holds an adapter trained on each of the tasks."""
    encoder: str = ENCODER
    out: Path
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1, max_length=MOST_PARTS)
    with_controls: bool = True
    short: int = Field(100, ge=20, le=MOST_EXAMPLES)
    """Number of test texts on which controls are compared."""
    unrelated: int = Field(5, ge=0, le=MOST_PARTS)
    """Number of tasks of other families on which forgetting is measured."""
    unrelated_texts: int = Field(50, ge=20, le=MOST_EXAMPLES)
    """Number of test texts of each of those."""
    dtype: DtypeName = "auto"
    device: DeviceName = "cpu"
    workers: int = Field(0, ge=0, le=MOST_PARTS)
    """Processes that compute cells, each those of a task at a time; with 1 it is this one. 0 takes one a core, where
    there are enough cells to make up for their beginning."""

    @field_validator("splits")
    @classmethod
    def _split_names_are_free(cls, splits: tuple[str, ...]) -> tuple[str, ...]:
        if ALL in splits:
            raise ValueError(f"a split cannot be called {ALL!r}, the name of the table of all tasks")
        return splits

    @model_validator(mode="after")
    def _named_are_evaluated(self) -> Self:
        if self.few_shot and (unknown := set(self.few_shot.generators) - set(self.generators)):
            raise ValueError(f"'few_shot' names {', '.join(sorted(unknown))}, not among 'generators'")
        if self.condition and (unknown := self.condition.needed() - set(self.generators)):
            raise ValueError(f"'condition' needs {', '.join(sorted(unknown))}, not among 'generators'")
        return self
