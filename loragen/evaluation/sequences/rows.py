"""A row of a sequence's tables and figure."""

from pydantic import Field

from loragen.config import StrictModel
from loragen.continual.metrics import ContinualScores

MOST_BYTES = 10**11


class SequenceRow(StrictModel):
    """One strategy, or a rival, over the whole sequence."""

    name: str
    needs: str = ""
    """What of the old experts an update reads."""
    scores: ContinualScores
    """Of accuracies."""
    errors: tuple[float | None, ...]
    """By moment, the mean relative distance of generated adapters to the experts that have arrived."""
    seconds: float | None = None
    """Of all updates together; `None` where nothing is updated."""
    kept_bytes: int | None = Field(None, ge=0, le=MOST_BYTES)
    """What lies on the disk between two updates: generator, and what the strategy keeps beside it."""
