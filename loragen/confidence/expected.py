"""The gain that is expected of an adapter, with the interval that it should lie in."""

from typing import Literal, Self

from pydantic import Field, model_validator

from loragen.config import StrictModel

Knowledge = Literal["description", "labels", "texts"]
"""What an expectation rests on; each kind holds those before it."""
COVERAGE = 0.8
"""Share of tasks whose gain the interval should hold."""


class ExpectedGain(StrictModel):
    """Expected label-text accuracy of an adapter less the bare base's, on texts of the task that it has not seen."""

    gain: float = Field(ge=-1, le=1)
    low: float = Field(ge=-1, le=1)
    """The gain of one task in ten is below."""
    high: float = Field(ge=-1, le=1)
    """The gain of one task in ten is above."""
    knows: Knowledge
    """What it rests on."""

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if not self.low <= self.gain <= self.high:
            raise ValueError(f"the gain {self.gain} lies outside its interval, {self.low} to {self.high}")
        return self
