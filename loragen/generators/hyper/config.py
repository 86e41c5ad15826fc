"""Settings of a training through the frozen base, on the texts of the experts' tasks."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from loragen.bases.devices import DtypeName
from loragen.config import StrictModel
from loragen.generators.trained import TrainConfig
from loragen.values import MOST_EXAMPLES, MOST_PARTS, MOST_TOKENS, Shots


class TaskSettings(StrictModel):
    """Settings of a training on task loss: tasks, texts and judging."""

    tasks: Path
    """The experts' tasks: their texts are what it learns from."""
    tasks_root: Path | None = None
    """Folder of the tasks' files, if not the one that file names."""
    reading_model: str | None = None
    """Text encoder that reads the task vectors, so that a generation does not load the base; by default the base."""
    judged_on: str | None = "validation"
    """The split of left-out tasks that chooses the epoch; null trains to the end."""
    judged_texts: int = Field(100, ge=20, le=MOST_EXAMPLES)
    """Test texts of each of them."""
    contrast_weight: float = Field(1.0, ge=0)
    """Weight of supervised contrast, which sees no label text."""
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    """Tokens of a text in training, and of a prompt that task vectors are read from."""
    variants: int = Field(3, ge=0, le=MOST_PARTS)
    """Number of variants of each task with at least four labels; a variant has a random part of them."""
    near_share: float = Field(0.5, ge=0, le=1)
    """Share of the episodes that start from a fold which has seen others of the task's family, where there is one."""
    dtype: DtypeName = "auto"
    """In which the frozen base computes losses and scores; task vectors are read in float32."""


class TaskTrainConfig(TaskSettings, TrainConfig):
    """Settings of `loragen train` for a generator that is trained on task loss."""

    more_tasks: Path | None = None
    """A task file of further tasks, which have no experts; their texts are learnt from as well."""
    told: Path | None = None
    """An adapter of the experts' sites and rank that was trained with descriptions in its prompts. Generated adapters
    begin at it and want the task's description in their prompts; by default prompts tell nothing."""
    pool: int = Field(96, ge=1, le=MOST_EXAMPLES)
    """Training examples a task from which supports are drawn."""
    shots: tuple[Shots, ...] = Field((4, 8, 16, 32), min_length=1)
    """Sizes of a support."""
    texts: int | None = Field(None, ge=2, le=MOST_EXAMPLES)
    """Training texts of a task that batches are drawn from; by default all. Of few, read again and again, a language
    model computes what lies below the adapted layers once."""
    evidence_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of the episodes in which a kind of evidence is missing."""

    @model_validator(mode="after")
    def _no_variants_of_told_tasks(self) -> Self:
        if self.told is not None and self.variants:
            raise ValueError("descriptions in prompts tell all labels of a task; set 'variants: 0' beside 'told'")
        return self
