"""What strategies see of a generator that is brought up to date: its network, its losses, and batches of experts.

A strategy knows nothing of the kind of generator. It chooses which experts' batches are drawn, what is added to the
loss, and what happens to the network after a step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from loragen.conditions.task_vectors import Reader, Reading
from loragen.errors import ConfigError
from loragen.generators.trained import TrainedGenerator
from loragen.training.devices import Devices
from loragen.training.objective import Batch, Objective
from loragen.training.schedule import Schedule

Draw = Callable[[Sequence[int], torch.Generator], Sequence[Batch]]
"""From rows of experts to the batches of an epoch over them."""
Imagine = Callable[[torch.Generator, float], Sequence[Batch]]
"""The batches of an epoch over descriptions that the old generator knew. Their targets are what it makes of them, with
normal noise of a deviation; no old weights are read."""


@dataclass(frozen=True, eq=False)
class Learner:
    """A generator that goes on learning."""

    network: nn.Module
    """A copy of the old generator's, trained in place."""
    objective: Objective
    """The loss of batches of ``draw``; it holds the network."""
    imitation: Objective
    """The loss of batches of ``imagine``; it holds the network too."""
    unseen: tuple[int, ...]
    """Rows of the experts that the old generator has not seen."""
    seen: tuple[int, ...]
    """Rows of the others that the zoo still holds."""
    draw: Draw
    imagine: Imagine
    errors: Callable[[Sequence[int]], Tensor]
    """Rows of experts → ‖made - own‖ / ‖own - mean of all‖ of what the network makes for their descriptions."""
    bytes_of_one: int
    """What an expert takes in a buffer."""
    schedule: Schedule
    seed: int
    devices: Devices


class GoingOn(Protocol):
    """How a generator goes on: from which one, and by what."""

    @property
    def old(self) -> TrainedGenerator:
        """The generator to go on from."""

    @property
    def descriptions(self) -> Mapping[str, tuple[str, ...]]:
        """Expert that it was trained on → its descriptions, as far as they are known."""

    def fit(
        self, learner: Learner, *, checkpoints: Path | None, on_step: Callable[[int], None] | None
    ) -> list[dict[str, float]]:
        """Train the learner's network; returns the losses, a row a step."""


def read_descriptions(reading: Reading, evidence: Sequence[str], going_on: GoingOn) -> list[Tensor]:
    """For each old expert the states of its descriptions, (p, h).

    Raises:
        ConfigError: the generator does not read descriptions, or none is known.
    """
    if "description" not in evidence:
        raise ConfigError(
            f"The strategy reads old descriptions, and this generator reads {', '.join(evidence)} alone; choose one "
            "that needs none, such as l2."
        )
    if not going_on.descriptions:
        raise ConfigError("No description of an expert that the generator was trained on is known; train it anew.")
    reader = Reader.load(reading)
    return [reader.descriptions(texts) for texts in going_on.descriptions.values()]


def drawn_wordings(wordings: Sequence[Tensor], number: int, *, rng: torch.Generator) -> Tensor:
    """One wording each of experts drawn at random, (number, h), of their wordings (p, h)."""
    experts = torch.randint(len(wordings), (number,), generator=rng).tolist()
    places = torch.rand(number, generator=rng).tolist()
    asked = [wordings[expert] for expert in experts]
    return torch.stack([own[int(place * len(own))] for own, place in zip(asked, places, strict=True)])


def relative_errors(made: Tensor, own: Tensor, centre: Tensor) -> Tensor:
    """‖made - own‖ / ‖own - centre‖ of vectors (n, d), (n,); 1 is what the centre of all would do."""
    far = (own - centre).norm(dim=1).clamp_min(torch.finfo(own.dtype).tiny)
    errors: Tensor = (made - own).norm(dim=1) / far
    return errors
