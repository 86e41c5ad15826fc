"""Trains the edit of a generator: GS-LoRA's loss over descriptions, with proximal steps.

For the expert f to forget, with codes x̂ generated for its descriptions, its own code x, and
d(a, b) = ‖a - b‖² / spread in place of the paper's cross-entropies and divergences,

    loss = β relu(BND - d(x̂, x)) + w_f relu(BND - d(x̂, p)) + d(ŷ, y) + w_r d(ŷ, q) + α Σ ‖(A, B)‖

where ŷ are codes generated for remaining experts' descriptions, y what the network gave for them before with the same
noise, and p and q prototypes: means of what it gave before for f and for each remaining expert. The last sum, over the
layers, is minimised by `soft_threshold`.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from loragen.continual.forget.factors import LayerChanges, RunningMean
from loragen.continual.forget.lesson import Lesson
from loragen.continual.forget.proximal import GroupDescent
from loragen.continual.forget.settings import ForgetSettings
from loragen.generators.edits import linear_layers
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule


@dataclass(frozen=True)
class LessonBatch:
    """Descriptions of a step."""

    inputs: Tensor
    """Of the forgotten expert, (b, i)."""
    noise: Tensor
    kept_inputs: Tensor
    """Of remaining ones, (c, i)."""
    kept_noise: Tensor
    kept: Tensor
    """Codes that the network gave for these before, (c, k)."""
    prototypes: Tensor
    """Of these descriptions' experts, (c, k)."""

    def to(self, device: torch.device) -> Self:
        """The same batch on a device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class _Changed(nn.Module):
    """A weight plus B · A, for a layer in training."""

    def __init__(self, a: nn.Parameter, b: nn.Parameter) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, weight: Tensor) -> Tensor:
        return weight + (self.b @ self.a).view_as(weight)


class ForgetObjective(Objective):
    """The smooth part of the loss; the penalty is the optimiser's."""

    code: Tensor
    prototype: Tensor

    def __init__(self, lesson: Lesson, changes: LayerChanges, settings: ForgetSettings) -> None:
        super().__init__()
        self.network = copy.deepcopy(lesson.generator.network).requires_grad_(False)
        self.changes = changes
        layers = linear_layers(self.network)
        for name, (a, b) in zip(changes.names, changes.groups, strict=True):
            parametrize.register_parametrization(layers[name], "weight", _Changed(a, b))
        self.settings = settings
        self.register_buffer("code", lesson.code, persistent=False)
        self.register_buffer("prototype", lesson.forgotten.prototype, persistent=False)
        self._lesson = (lesson,)  # a tuple hides its network from parameters()

    def train(self, mode: bool = True) -> Self:
        """The network stays as it generates: without dropout, and with the statistics of its training."""
        super().train(mode)
        self.network.eval()
        return self

    def loss(self, batch: LessonBatch) -> dict[str, Tensor]:
        """The loss and its parts."""
        (lesson,), at = self._lesson, self.settings
        generator = lesson.generator.with_network(self.network, ())
        made, kept = generator.drafts(batch.inputs, batch.noise), generator.drafts(batch.kept_inputs, batch.kept_noise)
        error = lesson.error(made, self.code)
        forget = F.relu(lesson.bound - error).mean()
        away = F.relu(lesson.bound - lesson.error(made, self.prototype)).mean()
        remain, near = lesson.error(kept, batch.kept).mean(), lesson.error(kept, batch.prototypes).mean()
        whole = at.forget_weight * forget + at.prototype_forget * away + remain + at.prototype_remain * near
        return {"loss": whole, "error": error.mean(), "remain": remain}


def fit_edit(
    lesson: Lesson, settings: ForgetSettings, *, on_step: Callable[[int], None] | None = None
) -> tuple[dict[str, tuple[Tensor, Tensor]], tuple[str, ...]]:
    """Train an edit; returns its factors by layer, and all layers that it could have changed."""
    from loragen.training.lightning_fit import fit

    layers = reached_layers(lesson)
    changes = LayerChanges(layers, settings.rank, rng=torch.Generator().manual_seed(settings.seed))
    mean, begin = RunningMean(settings.average), int(settings.average_from * settings.steps)

    def step(number: int) -> None:
        if number > begin:
            mean.add(changes.factors())
        if on_step is not None:
            on_step(number)

    fit(
        ForgetObjective(lesson, changes, settings),
        lambda epoch: lesson_batches(lesson, settings, epoch),
        Schedule(1, settings.steps, settings.learning_rate),
        seed=settings.seed,
        on_step=step,
        optimizer=lambda rate: GroupDescent(changes.groups, lr=rate, penalty=settings.penalty),
    )
    return mean.kept(changes.factors()), changes.names


def is_known(lesson: Lesson) -> bool:
    """True if what is generated for a lesson's expert without noise is nearer to it than the bound."""
    inputs = lesson.forgotten.inputs
    with torch.no_grad():
        made = lesson.generator.drafts(inputs, torch.zeros(len(inputs), lesson.generator.noise_size))
    return bool((lesson.error(made, lesson.code) < lesson.bound).any())


def reached_layers(lesson: Lesson) -> dict[str, tuple[int, int]]:
    """Layers that bear on what is generated, with the sizes (out, in) of their weights as matrices."""
    network = copy.deepcopy(lesson.generator.network).requires_grad_(True)
    generator, inputs = lesson.generator.with_network(network, ()), lesson.forgotten.inputs
    made = generator.drafts(inputs, torch.ones(len(inputs), generator.noise_size))
    weights: dict[str, Any] = {name: layer.weight for name, layer in linear_layers(network).items()}
    found = torch.autograd.grad(made.sum(), list(weights.values()), allow_unused=True)
    reached = zip(weights.items(), found, strict=True)
    return {name: (len(w), w[0].numel()) for (name, w), gradient in reached if gradient is not None}


def lesson_batches(lesson: Lesson, settings: ForgetSettings, epoch: int) -> list[LessonBatch]:
    """The steps of an epoch: every description of the forgotten expert, and some of the remaining ones'."""
    rng = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
    generator, size = lesson.generator, lesson.generator.noise_size
    inputs = lesson.forgotten.inputs.repeat(settings.draws, 1)
    others, prototypes = _stacked(lesson.remaining)
    batches = []
    for _ in range(settings.steps):
        drawn = torch.randint(len(others), (settings.batch_size,), generator=rng)
        noise, kept_noise = (torch.randn(n, size, generator=rng) for n in (len(inputs), len(drawn)))
        with torch.no_grad():
            kept = generator.drafts(others[drawn], kept_noise)
        batches.append(LessonBatch(inputs, noise, others[drawn], kept_noise, kept, prototypes[drawn]))
    return batches


def _stacked(remaining: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """All remaining descriptions as inputs, each with the prototype of its expert."""
    inputs = torch.cat([each.inputs for each in remaining.values()])
    return inputs, torch.cat([each.prototype.expand(len(each.inputs), -1) for each in remaining.values()])
