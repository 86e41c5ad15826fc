"""Experts: what their training has in common, whatever the recipe; and the training of B over a frozen A."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base, LabelTargets, ObjectiveName
from loragen.bases.tokenised import TaskData
from loragen.bases.wording import PROMPT, Chat, Wording
from loragen.config import StrictModel
from loragen.errors import ConfigError
from loragen.patterns import compiles
from loragen.training.objective import Objective
from loragen.training.schedule import Schedule
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES, MOST_PARTS, MOST_STEPS, MOST_TOKENS, Seed


class ExpertRecipe(StrictModel):
    """Settings of the training of experts; one recipe serves every task of a zoo.

    These are those of the recipe ``lora``; every other has a subclass with settings of its own (`recipes.registry`).
    """

    name: str = "lora"
    """Of the recipe; see `loragen recipes`."""
    objective: ObjectiveName = "label_text"
    """Training and scoring: by texts and label texts, by completions of a decoder or an encoder-decoder, or by images
    and their captions. The base must be a model of that kind."""
    prompt: str = PROMPT
    """Template of a labelled text, ``{text}``, for a language model; the label follows after a space."""
    chat: Chat | None = None
    """In place of ``prompt``: texts are put to the model in its own template for chats, and labels and completions are
    the assistant's turn."""
    label_targets: LabelTargets = "moving"
    """Training and scoring by label texts: these are embedded under the adapter, or ("frozen") by the base alone."""
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

    @field_validator("name")
    @classmethod
    def _is_its_own(cls, name: str) -> str:
        own = cls.model_fields["name"].default
        if name != own:
            raise ValueError(f"these are settings of the recipe {own!r}")
        return name

    @model_validator(mode="after")
    def _has_label_texts(self) -> Self:
        if self.label_targets == "frozen" and self.objective != "label_text":
            raise ValueError(f"frozen label targets want the objective 'label_text', not {self.objective!r}")
        return self

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

    @property
    def holds_bases(self) -> bool:
        """True if the columns of every B are orthonormal: a basis of what is written, other than a B to begin with."""
        return all(torch.allclose(b.T @ b, torch.eye(b.shape[1]), atol=1e-3) for b in self.lora_B.values())

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
    """A trained expert: the mean of a window of its trajectory, the variance there, and some of its points.

    Where A was trained too, or the gradient gave it, there is no window: one point of the training is the expert.
    """

    lora_A: Mapping[str, Tensor]
    mean: Mapping[str, Tensor]
    """Site → mean of scaling · B over the window, (out, r)."""
    variance: Mapping[str, Tensor]
    """Site → unbiased variance of B over the window, (out, r); empty where there is no window."""
    snapshots: Mapping[str, Tensor]
    """Site → evenly spaced B of the window, (snapshots, out, r); empty where there is no window."""
    steps: int
    """Step at which the window ends: the length that did best on the held-out slice."""
    held_out_losses: Mapping[int, float] = field(default_factory=dict)
    """Length → loss of that expert on the held-out slice."""
    energy_kept: float | None = None
    """Share of the trained update's squared Frobenius norm that the rank asked for holds; None if nothing was cut."""
    task_type: str | None = "FEATURE_EXTRACTION"
    fan_in_fan_out: bool = False
    """Both for PEFT; see `Base`."""


def trajectory(
    objective: AdapterObjective,
    steps: Sequence[TaskData],
    learning_rate: float,
    *,
    seed: int,
    on_step: Callable[[int], None] | None = None,
    guard: Callable[[AdapterObjective], None] | None = None,
) -> dict[str, Tensor]:
    """Train an objective in place, a batch a step; returns its B after every step by site, (steps, out, r).

    ``guard`` may change its factors after each step.
    """
    from loragen.training.lightning_fit import fit

    points: list[list[Tensor]] = []

    def keep(step: int) -> None:
        if guard is not None:
            guard(objective)
        points.append([b.detach().cpu().clone() for b in objective.lora_B])
        if on_step is not None:
            on_step(step)

    fit(objective, lambda _epoch: steps, Schedule(1, len(steps), learning_rate), seed=seed, on_step=keep)
    return {site: torch.stack([b[i] for b in points]) for i, site in enumerate(objective.sites)}
