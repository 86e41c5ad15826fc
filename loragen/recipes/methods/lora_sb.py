"""LoRA-SB (Ponkshe et al. 2024, arXiv 2411.19557): ΔW = B R A with fixed bases A and B; R alone, r x r, is trained.

Training begins at the first step that full fine-tuning with Adam would take, U = -step · sign(G), as far as rank r
holds it. The bases are orthonormal, so that the gradient of R, Bᵀ G Aᵀ, is the R whose B R A is nearest to G, and no
scaling is needed. With the bases of a zoo in place of a task's own, all experts share A and B, and an expert is its R.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from loragen.bases.base import Base
from loragen.errors import ConfigError
from loragen.recipes.expert import Expert, ExpertRecipe, Start
from loragen.recipes.gradients import mean_gradients
from loragen.recipes.setting import Setting
from loragen.recipes.trainee import Trainee, train_freely
from loragen.tasks.task_set import Task
from loragen.training.schedule import Schedule, warmup_cosine
from loragen.values import LARGEST_LAYER, MOST_STEPS

GRADIENTS = "gradients"
"""Value of a zoo's ``frame`` whose start holds the bases that its experts share."""


class LoraSB(ExpertRecipe):
    """Settings of LoRA-SB."""

    name: str = "lora_sb"
    r: int = Field(16, ge=1, le=LARGEST_LAYER)
    """Of the bases; r² numbers a site are trained."""
    basis: Literal["own", "zoo"] = "own"
    """Bases from the gradient of each task by itself, or those that a zoo with ``frame: gradients`` shares."""
    batches: int = Field(2, ge=1, le=MOST_STEPS)
    """Batches whose mean gradient is G."""
    first_step: float | None = Field(None, gt=0)
    """Size of every entry of U, a step of whole weights. By default the learning rate of the training's first step,
    warm-up included, as in the published code, whose rates are at most 5e-3; at higher ones a smaller step may do."""

    @property
    def step(self) -> float:
        """Size of every entry of U."""
        if self.first_step is not None:
            return self.first_step
        fraction = Schedule(1, self.steps, self.learning_rate).warmup_fraction
        return self.learning_rate * warmup_cosine(self.steps, fraction)(0)

    @property
    def frame(self) -> str:
        """The value of a zoo's ``frame`` that goes with these settings."""
        return GRADIENTS if self.basis == "zoo" else "random"


@final
class Core(Trainee):
    """R of every site between its bases."""

    def __init__(self, parts: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> None:
        """``parts``: site → B (out, r), R (r, r) to begin with, A (r, in)."""
        super().__init__()
        self.sites = tuple(parts)
        self.lora_B = nn.ParameterList([b.clone() for b, _, _ in parts.values()]).requires_grad_(False)
        self.cores = nn.ParameterList([core.clone() for _, core, _ in parts.values()])
        self.lora_A = nn.ParameterList([a.clone() for _, _, a in parts.values()]).requires_grad_(False)

    def updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """The factors."""
        return self.factors()

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """A and B R: experts within one pair of bases share their A."""
        parts = zip(self.sites, self.lora_B, self.cores, self.lora_A, strict=True)
        return {site: (a, b @ core) for site, b, core, a in parts}


def train_sb(setting: Setting, recipe: LoraSB) -> Expert:
    """Train R from the first update on.

    Raises:
        ConfigError: the bases of the zoo are asked for, and its start holds none, or some of a larger rank.
    """
    updates = first_updates(setting, recipe)
    if recipe.basis == "own":
        return train_freely(setting, Core({site: truncated(update, recipe.r) for site, update in updates.items()}))
    bases = setting.start
    if not bases.holds_bases or max(len(a) for a in bases.lora_A.values()) > recipe.r:
        raise ConfigError(
            f"'basis: zoo' of the recipe 'lora_sb' wants orthonormal bases of rank {recipe.r} at most as the start, as "
            f"a zoo with 'frame: {GRADIENTS}' makes them, and met another start; build such a zoo, or set 'basis: own'."
        )
    cores = {site: b.T @ updates[site] @ bases.lora_A[site].T for site, b in bases.lora_B.items()}
    return train_freely(setting, Core({s: (b, cores[s], bases.lora_A[s]) for s, b in bases.lora_B.items()}))


def first_updates(setting: Setting, recipe: LoraSB) -> dict[str, Tensor]:
    """Site → U (out, in), the first step of Adam on the base's weight from the mean gradient of some batches."""
    return {site: -recipe.step * g.sign() for site, g in mean_gradients(setting, recipe.batches).items()}


def truncated(update: Tensor, r: int) -> tuple[Tensor, Tensor, Tensor]:
    """B (out, k), R = diag(S) and A (k, in) of the singular value decomposition of (out, in), cut to k ≤ ``r``."""
    left, singular, right = torch.linalg.svd(update, full_matrices=False)
    return left[:, :r].contiguous(), torch.diag(singular[:r]), right[:r].contiguous()


def shared_bases(
    tasks: Sequence[Task],
    base: Base,
    start: Start,
    recipe: LoraSB,
    *,
    on_task: Callable[[int], None] | None = None,
) -> Start:
    """Bases for all experts of a zoo, site by site, from the first updates of its tasks.

    A has the top right singular vectors of the updates one above the other, B the top left ones of the updates side by
    side. They are the eigenvectors of Σ UᵀU and Σ UUᵀ, so that one update at a time is in memory; both sums count
    signs, and are exact in float32 up to 2²⁴.

    Args:
        tasks: whose train files give the gradients.
        base: as it is, without an adapter.
        start: says the sites and their sizes.
        recipe: rank, and batches of a gradient.
        on_task: called with the number of tasks done, after each.

    Returns:
        A (r, in) in bfloat16 precision and, in place of a start, the basis B (out, r); a smaller rank at sites that
        have fewer features.

    Raises:
        TaskError: the train file of a task cannot be used.
    """
    reads = {site: a.new_zeros(a.shape[1], a.shape[1]) for site, a in start.lora_A.items()}
    writes = {site: b.new_zeros(len(b), len(b)) for site, b in start.lora_B.items()}
    for done, task in enumerate(tasks, 1):
        for site, gradient in mean_gradients(Setting.of(task, base, start, recipe), recipe.batches).items():
            signs = gradient.sign()
            reads[site] += signs.T @ signs
            writes[site] += signs @ signs.T
        if on_task is not None:
            on_task(done)
    lora_a, lora_b = {}, {}
    for site in start.lora_B:
        rank = min(recipe.r, len(reads[site]), len(writes[site]))
        lora_a[site] = _leading(reads[site], rank).T.bfloat16().float().contiguous()
        lora_b[site] = _leading(writes[site], rank).contiguous()
    return Start(lora_a, lora_b)


def _leading(gram: Tensor, number: int) -> Tensor:
    """The first eigenvectors of a symmetric matrix (n, n), largest eigenvalue first, float32 (n, number)."""
    vectors: Tensor = torch.linalg.eigh(gram.double()).eigenvectors  # ascending
    return vectors[:, -number:].flip(1).float()
