"""How well a zoo covers a task, and what to do about it: reuse an expert, generate an adapter, or train an expert.

The figure is the same for all kinds of evidence: the share of tasks of left-out families, among the zoo's own, that are
farther from the experts of the other families than this task is from all experts.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field

from loragen.config import StrictModel
from loragen.values import MOST_EXAMPLES

State = Literal["covered", "near", "new"]
"""From a task that an expert was made for to one that is like none."""
Action = Literal["reuse", "generate", "train"]
"""What a state calls for: of an expert, an adapter, an expert."""
Known = Literal["description", "texts"]
"""What a figure rests on."""
NEW, COVERED = 0.5, 0.9
"""Figures: below the first a task is new, from the second on it may be covered. So of tasks of a family that the zoo
lacks at most one in ten passes for covered, and half are new."""
MISSED = 0.05
"""Share of the zoo's own tasks that may be missed: a task that is farther from the nearest expert than all but these
from theirs is not covered."""
_STATES: dict[State, str] = {"covered": "covered", "near": "near to the zoo", "new": "new to the zoo"}
_WORDS: dict[State, str] = {
    "covered": "Reuse the expert {}.",
    "near": "Generate an adapter; the nearest expert is {}.",
    "new": "Train an expert if you have labelled texts; what is generated for it has none to draw on that is near.",
}
_ACTIONS: dict[State, Action] = {"covered": "reuse", "near": "generate", "new": "train"}


class NearExpert(StrictModel):
    """An expert that a task is near to."""

    id: str
    value: float
    """From a description the cosine to the expert's; from texts the distance by a rule of `Descriptors`."""


class Coverage(StrictModel):
    """How well a zoo covers a task."""

    state: State
    figure: float = Field(ge=0, le=1)
    """Share of the tasks of left-out families that are farther from the zoo."""
    knows: Known
    """What both rest on."""
    nearest: tuple[NearExpert, ...]
    """Experts, the nearest first."""
    undescribed: int = Field(0, ge=0, le=MOST_EXAMPLES)
    """Experts that the texts were not compared with, since nothing is known of theirs."""
    beside: "Coverage | None" = None
    """What the other kind of evidence says, where there is one; the task is at most as covered as that says."""

    @property
    def action(self) -> Action:
        """What to do about the task; see `decide`."""
        return decide(self)

    def sentence(self) -> str:
        """State and figure in words, with what to do."""
        return (
            f"The task is {_STATES[self.state]} by its {self.knows}: nearer than {100 * self.figure:.0f} % of the "
            f"tasks of families that the zoo lacks. {_WORDS[self.state].format(self.nearest[0].id)}"
        )


@dataclass(frozen=True)
class Reference:
    """How near the zoo's own tasks are, as nearness from any evidence: larger is nearer; ascending."""

    left_out: tuple[float, ...]
    """Of tasks to the experts of other families; at least one."""
    own: tuple[float, ...] = ()
    """Of what was held out of tasks to all experts, their own among them; empty where that is not known."""

    def coverage(
        self, nearness: float, knows: Known, nearest: Sequence[tuple[str, float]], *, undescribed: int = 0
    ) -> Coverage:
        """Place a task of some nearness; ``nearest`` are experts with their values."""
        figure = bisect_left(self.left_out, nearness) / len(self.left_out)
        state: State = "new" if figure < NEW else "near"
        if figure >= COVERED and (not self.own or nearness >= self.own[int(MISSED * len(self.own))]):
            state = "covered"
        experts = tuple(NearExpert(id=name, value=round(value, 4)) for name, value in nearest)
        return Coverage(state=state, figure=round(figure, 4), knows=knows, nearest=experts, undescribed=undescribed)

    @classmethod
    def of(cls, left_out: Sequence[float], own: Sequence[float] = ()) -> Self:
        """A reference from values in any order."""
        assert left_out
        return cls(tuple(sorted(left_out)), tuple(sorted(own)))


def lesser(one: Coverage, other: Coverage) -> Coverage:
    """What two kinds of evidence say together: the one that covers the task less, with the other beside it."""
    order: tuple[State, ...] = ("new", "near", "covered")
    first, second = sorted((one, other), key=lambda each: (order.index(each.state), each.figure))
    return first.model_copy(update={"beside": second})


def decide(coverage: Coverage) -> Action:
    """What to do about a task: train an expert if it is new, generate if it is near, reuse one if it is covered."""
    return _ACTIONS[coverage.state]
