"""What can be said of an adapter before anyone has labels: how near its task is to the zoo, and what to expect."""

from pydantic import Field

from loragen.confidence.coverage import Coverage
from loragen.confidence.expected import ExpectedGain
from loragen.config import StrictModel

FAR, NEAR = 0.45, 0.6
"""Similarities to the nearest expert: below the first a task is far from all, from the second on near to one."""


class Outlook(StrictModel):
    """What can be said of an adapter before anyone has labels."""

    similarity: float = Field(ge=-1.001, le=1.001)
    """Cosine of the description, or of a history and the description, and the nearest expert's description."""
    agreement: float | None = Field(None, ge=-1.001, le=1.001)
    """Cosine of what the generator and a merge of the nearest experts add to the zoo's one adapter for all tasks."""
    expected: ExpectedGain | None = None
    """`None` where no model was fitted: for zoos of one's own, and for adapters fitted to labelled examples."""
    coverage: Coverage | None = None
    """How well the zoo covers the task by its description; `None` for a history, a zoo of few families or of very many
    experts, and on older cards."""
    instead: str | None = None
    """Why another adapter than the generator's was given out; `None` where it was not."""

    @property
    def distance(self) -> str:
        """How far the task is from the zoo, in words."""
        if self.similarity < FAR:
            return "far from every expert"
        return "near to an expert" if self.similarity >= NEAR else "some way from the nearest expert"

    def sentence(self) -> str:
        """The outlook in words."""
        start = f"The task is {self.distance} (similarity {self.similarity:.2f})"
        if self.expected is None:
            return f"{start}."
        one, sources = self.expected, {"description": "words alone", "labels": "words alone", "texts": "your texts"}
        return (
            f"{start}. Expected over the base, from {sources[one.knows]}: {one.gain:+.2f} in accuracy "
            f"({one.low:+.2f} to {one.high:+.2f} in four cases of five)."
        )
