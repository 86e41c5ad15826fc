"""Grows by low-rank stages, opened where new tasks are not solved yet (ScaleZero's dynamic parameter scaling).

Pu et al. 2025, arXiv 2509.07945. There a task is solved by its reward; here where what is generated for its description
is near its expert, which needs neither texts nor the base. A stage is opened as an update begins, unless every new task
is solved already, and the next one as soon as ceil(unsolved / stages left) of them have been solved since, or after
some epochs.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from pydantic import Field
from torch import nn

from loragen.continual.session import Session
from loragen.continual.stages import StagedLinear, StagesFile
from loragen.continual.strategy import Begun, Files, Strategy, freeze_rest, linear_layers
from loragen.errors import ConfigError
from loragen.generators.learner import Learner
from loragen.values import LARGEST_LAYER, MOST_PARTS, MOST_STEPS

FILE = "stages.safetensors"


@final
class Stages(Strategy):
    """Low-rank stages."""

    name: Literal["stages"] = "stages"
    rank: int = Field(8, ge=1, le=LARGEST_LAYER)
    """Of a stage at each layer, or the layer's smaller side."""
    most: int = Field(2, ge=1, le=MOST_PARTS)
    """Stages that an update may open."""
    solved: float = Field(0.5, gt=0)
    """A task is solved at this relative error: ‖made - expert‖ / ‖expert - mean of all‖."""
    patience: int = Field(10, ge=1, le=MOST_STEPS)
    """Epochs after which the next stage is opened in any case."""

    def begin(self, learner: Learner, kept: Files) -> Begun:
        """New experts, learnt by the stages that are opened."""
        layers = linear_layers(learner.network)
        if not layers:
            raise ConfigError("The generator's network has no linear layer that could grow.")
        before = StagesFile.from_bytes(kept[FILE]) if FILE in kept else None
        if before is not None and before.weights.keys() != layers.keys():
            raise ConfigError(f"The generator's {FILE} is of another network; remove it, or train anew.")
        growth = _Growth(self, learner, before, layers)
        growth.files[FILE] = b""
        session = Session(
            learner,
            decays=False,
            extra=growth.watch,
            after_epoch=growth.look,
            finish=growth.fold,
            is_idle=not growth.unsolved,
        )
        return Begun(session, growth.files)


@dataclass(eq=False)
class _Growth:
    """The stages of one update."""

    options: Stages
    learner: Learner
    before: StagesFile | None
    plain: dict[str, nn.Linear]
    files: dict[str, bytes] = field(default_factory=dict)
    epochs: int = 0
    """Since the newest stage was opened."""

    def __post_init__(self) -> None:
        self.unsolved = self._unsolved()
        self.watch = nn.Module()
        rng = torch.Generator().manual_seed(self.learner.seed)
        old = 0 if self.before is None else len(next(iter(self.before.factors.values())))
        if self.unsolved:
            freeze_rest(self.learner.network)
        self.staged = {}
        for name, layer in self.plain.items():
            rank = min(self.options.rank, *layer.weight.shape)
            factors = [] if self.before is None else list(self.before.factors[name])
            for _ in range(self.options.most):
                a = torch.randn(rank, layer.in_features, generator=rng) / layer.in_features**0.5
                factors.append((a, torch.zeros(layer.out_features, rank)))
            weight = layer.weight if self.before is None else self.before.weights[name]
            self.staged[name] = StagedLinear(weight, layer.bias, factors, old)
            if self.before is not None and self.before.states:
                logits = self.before.states[-1][name]
                self.staged[name].logits.data[: len(logits)] = logits
        self.first, self.last = old, old + self.options.most
        if self.unsolved:
            for name, staged in self.staged.items():
                _put(self.learner.network, name, staged)
            self._open()

    def _unsolved(self) -> set[int]:
        errors = self.learner.errors(self.learner.unseen)
        return {
            row for row, error in zip(self.learner.unseen, errors.tolist(), strict=True) if error > self.options.solved
        }

    def _open(self) -> None:
        """Open the next stage of every layer."""
        for layer in self.staged.values():
            layer.opened += 1
        self.epochs, self.at_opening = 0, self._unsolved()

    def look(self) -> None:
        """After an epoch: open the next stage if it is time."""
        self.epochs += 1
        opened = int(next(iter(self.staged.values())).opened)
        left = self.last - opened
        now = self._unsolved()
        newly = len(self.at_opening - now)
        is_time = newly >= math.ceil(len(self.at_opening) / (left + 1)) or self.epochs >= self.options.patience
        if left and now and is_time:
            self._open()

    @torch.no_grad()
    def fold(self) -> None:
        """Put plain layers with the grown weights back, and keep the stages for the next update."""
        weights, factors, state = {}, {}, {}
        for name, grown in self.staged.items():
            opened = int(grown.opened)
            self.plain[name].weight.copy_(grown.effective())
            if self.unsolved:
                _put(self.learner.network, name, self.plain[name])
            weights[name] = grown.weight
            pairs = zip(grown.lora_A[:opened], grown.lora_B[:opened], strict=True)
            factors[name] = tuple((a.detach(), b.detach()) for a, b in pairs)
            state[name] = grown.logits.detach()[: 1 + opened].clone()
        states: tuple[Mapping[str, torch.Tensor], ...] = () if self.before is None else self.before.states
        self.files[FILE] = StagesFile(weights, factors, (*states, state)).to_bytes()


def _put(network: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, layer)
