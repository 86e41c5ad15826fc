"""Experts: one adapter trained on one task, B alone over a frozen A that all experts of a zoo share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, ObjectiveName
from loragen.bases.tokenised import TaskData
from loragen.bases.wording import PROMPT, Chat, Wording
from loragen.config import StrictModel
from loragen.errors import ConfigError, TaskError
from loragen.patterns import compiles
from loragen.tasks.task_set import Task
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES, MOST_PARTS, MOST_STEPS, MOST_TOKENS, Seed


class ExpertRecipe(StrictModel):
    """Settings of the training of experts; one recipe serves every task of a zoo."""

    objective: ObjectiveName = "label_text"
    """Training and scoring: by texts and label texts, by completions of a decoder or an encoder-decoder, or by images
    and their captions. The base must be a model of that kind."""
    prompt: str = PROMPT
    """Template of a labelled text, ``{text}``, for a language model; the label follows after a space."""
    chat: Chat | None = None
    """In place of ``prompt``: texts are put to the model in its own template for chats, and labels and completions are
    the assistant's turn."""
    r: int = Field(4, ge=1, le=LARGEST_LAYER)
    target_modules: tuple[str, ...] | str = ("query", "value")
    """Names of linear modules or their dotted endings, or one regular expression for whole names, as in PEFT."""
    steps: int = Field(60, ge=2, le=MOST_STEPS)
    batch_size: int = Field(32, ge=2, le=MOST_EXAMPLES)
    learning_rate: float = Field(1e-2, gt=0)
    contrast_weight: float = Field(0.0, ge=0)
    """Weight of supervised contrast beside the label-text loss."""
    max_length: int = Field(64, ge=8, le=MOST_TOKENS)
    """Tokens of a text in training, a chat's template not counted; scoring uses ``score_length``."""
    score_length: int = Field(128, ge=8, le=MOST_TOKENS)
    held_out: int = Field(128, ge=1, le=MOST_EXAMPLES)
    """Examples of the train file (at most a fifth of it) that choose the number of steps."""
    choices: int = Field(5, ge=1, le=MOST_PARTS)
    """Number of lengths of the trajectory that are compared on them."""
    window: int = Field(10, ge=2, le=MOST_STEPS)
    """Steps whose mean is the expert and whose variance is kept."""
    snapshots: int = Field(4, ge=1, le=MOST_PARTS)
    """Points of the window that are kept."""
    seed: Seed = 0

    @property
    def wording(self) -> Wording:
        """How tasks are put to a language model."""
        return self.chat or self.prompt

    @field_validator("target_modules")
    @classmethod
    def _compiles(cls, targets: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if isinstance(targets, str) and not compiles(targets):
            raise ValueError("no regular expression; wanted one, or a list of names")
        return targets

    @field_validator("prompt")
    @classmethod
    def _has_a_place(cls, prompt: str) -> str:
        if "{text}" not in prompt:
            raise ValueError("no {text} in it, which says where the text goes")
        return prompt


@dataclass(frozen=True)
class Start:
    """Start of a training: for every site A (r, in) with orthonormal rows, in bfloat16 precision, and B (out, r)."""

    lora_A: Mapping[str, Tensor]
    lora_B: Mapping[str, Tensor]

    @classmethod
    def random(cls, sites: Mapping[str, tuple[int, int]], r: int, *, rng: torch.Generator) -> "Start":
        """Random orthonormal A, zero B.

        Raises:
            ConfigError: the rank exceeds the features that a site reads.
        """
        for site, (_, width) in sites.items():
            if r > width:
                raise ConfigError(
                    f"The rank is {r}, but {site} reads {width} features; give a rank of at most {width}."
                )
        frames = {site: torch.linalg.qr(torch.randn(size[1], r, generator=rng))[0].T for site, size in sites.items()}
        return cls(
            {site: _bfloat16(frame) for site, frame in frames.items()},
            {site: torch.zeros(size[0], r) for site, size in sites.items()},
        )

    @classmethod
    def at(cls, adapter: Lora) -> "Start":
        """The delta weights of an adapter, re-expressed over an orthonormal A by QR."""
        lora_a: dict[str, Tensor] = {}
        lora_b: dict[str, Tensor] = {}
        for site in adapter.sites:
            a, b = adapter.scaled_factors(site)
            q, triangle = torch.linalg.qr(a.T)
            lora_a[site] = _bfloat16(q.T)
            lora_b[site] = b @ triangle.T
        return cls(lora_a, lora_b)

    def from_zero(self) -> "Start":
        """The same A with a zero B."""
        return Start(self.lora_A, {site: torch.zeros_like(b) for site, b in self.lora_B.items()})


def _bfloat16(values: Tensor) -> Tensor:
    """Round to bfloat16 once, so that training runs over exactly the values that are stored."""
    return values.bfloat16().float().contiguous()


class AdapterObjective(Objective):
    """The adapter's factors as parameters, and the loss of a batch of one task through the frozen base."""

    def __init__(self, base: Base, start: Start, *, train_a: bool, contrast_weight: float) -> None:
        super().__init__()
        self.sites = tuple(start.lora_B)
        self.lora_A = nn.ParameterList([start.lora_A[site].clone() for site in self.sites]).requires_grad_(train_a)
        self.lora_B = nn.ParameterList([start.lora_B[site].clone() for site in self.sites])
        self.contrast_weight = contrast_weight
        self._base = (base,)  # a tuple hides the base from parameters(), state_dict() and checkpoints

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors as they stand, by site."""
        return {site: (a, b) for site, a, b in zip(self.sites, self.lora_A, self.lora_B, strict=True)}

    def loss(self, batch: TaskData) -> dict[str, Tensor]:
        """The base's losses of a batch under these factors."""
        (base,) = self._base
        with base.using(self.factors()):
            return base.losses(batch, contrast_weight=self.contrast_weight)

    def validation_loss(self, data: TaskData, factors: Mapping[str, tuple[Tensor, Tensor]]) -> float:
        """The same loss over all of ``data`` at once, under other factors."""
        (base,) = self._base
        with base.using(factors):
            return base.held_out_loss(data, contrast_weight=self.contrast_weight)


@dataclass(frozen=True)
class Expert:
    """A trained expert: the mean of a window of its trajectory, the variance there, and some of its points."""

    lora_A: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]
    """Site → mean of B over the window, (out, r)."""
    variance: Mapping[str, Tensor]
    """Site → unbiased variance of B over the window, (out, r)."""
    snapshots: Mapping[str, Tensor]
    """Site → evenly spaced B of the window, (snapshots, out, r)."""
    steps: int
    """Step at which the window ends: the length that did best on the held-out slice."""
    held_out_losses: Mapping[int, float] = field(default_factory=dict)
    """Length → loss of its window's mean on the held-out slice."""
    task_type: str | None = "FEATURE_EXTRACTION"
    fan_in_fan_out: bool = False
    """Both for PEFT; see `Base`."""


def train_expert(task: Task, base: Base, start: Start, recipe: ExpertRecipe) -> Expert:
    """Train B on a task's train file and choose the length of training on a slice of it.

    Raises:
        TaskError: the train file is too small to leave a slice aside.
    """
    rng, base = torch.Generator().manual_seed(recipe.seed), base.keeping_below(start.lora_B)
    data = base.prepare(task.load_train(), max_length=recipe.max_length)
    if len(data.ids) < 10:
        raise TaskError(f"Task {task.id!r} has {len(data.ids)} training examples; at least 10 are needed.")
    train, held_out = data.split(recipe.held_out, rng=rng)
    objective = AdapterObjective(base, start, train_a=False, contrast_weight=recipe.contrast_weight)
    steps = list(train.batches(recipe.steps, recipe.batch_size, rng=rng))
    points = trajectory(objective, steps, recipe.learning_rate, seed=recipe.seed)
    return _choose_window(objective, points, held_out, start, recipe, base)


def trajectory(
    objective: AdapterObjective,
    steps: Sequence[TaskData],
    learning_rate: float,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Train an objective in place, a batch a step; returns its B after every step by site, (steps, out, r)."""
    from loragen.training.lightning_fit import fit

    points: list[list[Tensor]] = []

    def keep(step: int) -> None:
        points.append([b.detach().cpu().clone() for b in objective.lora_B])
        if on_step is not None:
            on_step(step)

    fit(objective, lambda _epoch: steps, Schedule(1, len(steps), learning_rate), seed=seed, on_step=keep)
    return {site: torch.stack([b[i] for b in points]) for i, site in enumerate(objective.sites)}


def _choose_window(
    objective: AdapterObjective,
    points: Mapping[str, Tensor],
    held_out: TaskData,
    start: Start,
    recipe: ExpertRecipe,
    base: Base,
) -> Expert:
    window = min(recipe.window, recipe.steps)
    ends = sorted({max(window, round(recipe.steps * i / recipe.choices)) for i in range(1, recipe.choices + 1)})

    def mean_at(end: int) -> dict[str, Tensor]:
        return {site: p[end - window : end].mean(0) for site, p in points.items()}

    losses = {
        end: objective.validation_loss(held_out, {site: (start.lora_A[site], b) for site, b in mean_at(end).items()})
        for end in ends
    }
    best = min(losses, key=lambda end: losses[end])
    tail = {site: p[best - window : best] for site, p in points.items()}
    kept = torch.linspace(0, window - 1, min(recipe.snapshots, window)).round().long()
    return Expert(
        lora_A=start.lora_A,
        mean=mean_at(best),
        variance={site: p.var(0) for site, p in tail.items()},
        snapshots={site: p[kept] for site, p in tail.items()},
        steps=best,
        held_out_losses=losses,
        task_type=base.task_type,
        fan_in_fan_out=base.stores_transposed(points),
    )
