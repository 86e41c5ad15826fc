"""Settings of a training through the frozen base, on the texts of the experts' tasks."""

from pathlib import Path

from pydantic import Field, PositiveInt

from loragen.bases.devices import DtypeName
from loragen.config import StrictModel
from loragen.generators.trained import TrainConfig


class TaskSettings(StrictModel):
    """What any training on task loss is told."""

    tasks: Path
    """The experts' tasks: their texts are what it learns from."""
    tasks_root: Path | None = None
    """Where the tasks' files lie, if not where that file says."""
    judged_on: str | None = "validation"
    """The split of left-out tasks that chooses the epoch; null trains to the end."""
    judged_texts: int = Field(100, ge=20)
    """Test texts of each of them."""
    contrast_weight: float = Field(1.0, ge=0)
    """Weight of supervised contrast, which sees no label text."""
    max_length: int = Field(64, ge=8)
    """Tokens of a text in training, and of a prompt that task vectors are read from."""
    variants: int = Field(3, ge=0)
    """Tasks made of a random part of a task's labels, for each task of at least four."""
    near_share: float = Field(0.5, ge=0, le=1)
    """Share of the episodes in which others of a task's family may help, where the zoo has folds that know them."""
    dtype: DtypeName = "auto"
    """In which the frozen base computes losses and scores; task vectors are read in float32."""


class TaskTrainConfig(TaskSettings, TrainConfig):
    """What `loragen train` is told for any generator that is trained on task loss."""

    pool: int = Field(96, ge=1)
    """Training examples a task from which supports are drawn."""
    shots: tuple[PositiveInt, ...] = Field((4, 8, 16, 32), min_length=1)
    """Sizes of a support."""
    evidence_dropout: float = Field(0.3, ge=0, lt=1)
    """Share of the episodes in which a kind of evidence is missing."""
