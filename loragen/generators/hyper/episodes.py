"""Episodes: each a task or a variant of one, a batch of its texts, and the evidence that is given of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from loragen.generators.hyper.config import TaskTrainConfig
from loragen.generators.hyper.data import EpisodeTask, HyperData
from loragen.generators.hyper.task_loss import TaskBatch


def episodes(
    data: HyperData, config: TaskTrainConfig, *, rng: torch.Generator, rows: Sequence[int] | None = None
) -> list[TaskBatch]:
    """One epoch: each step draws a task or a variant, its texts, a support, and which evidence there is.

    Args:
        data: the tasks.
        config: sizes and numbers of the batches.
        rng: the only source of randomness.
        rows: of the experts whose tasks take part; by default all, and the tasks without experts.
    """
    all_tasks = (*data.tasks, *data.more.values())
    batches, drawn_from = [], range(len(all_tasks)) if rows is None else rows
    for _ in range(config.steps_per_epoch):
        at = drawn_from[int(torch.randint(len(drawn_from), (), generator=rng))]
        variants = all_tasks[at]
        task = variants[int(torch.randint(len(variants), (), generator=rng))]
        query, present = evidence_of(task, data, config, rng=rng)
        texts = task.batch(config.batch_size, rng=rng)
        start = _start(data, at, is_near=float(torch.rand((), generator=rng)) < config.near_share)
        batches.append(TaskBatch(texts, query, present, start))
    return batches


def evidence_of(
    task: EpisodeTask, data: HyperData, config: TaskTrainConfig, *, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Evidence of an episode: task vectors as networks read them, (kinds, h), and which there are, (kinds,)."""
    kinds = data.evidence
    present = torch.rand(len(kinds), generator=rng) >= config.evidence_dropout
    if not present.any():
        present[int(torch.randint(len(kinds), (), generator=rng))] = True
    number = int(torch.randint(1_000_000, (), generator=rng))
    shots = config.shots[int(torch.randint(len(config.shots), (), generator=rng))]
    # Texts and examples come from the same rows; at most as many as there are.
    rows = torch.randperm(task.pool, generator=rng)[:shots]
    vectors = torch.stack([task.vector(kind, number=number, rows=rows) for kind in kinds])
    return data.conditions.encode(vectors, present).reshape(len(kinds), -1), present


def _start(data: HyperData, expert: int, *, is_near: bool) -> Tensor:
    """Coordinates (d,) that a task starts from: a fold that has not seen it nor, unless near, its family.

    Of a task without an expert no fold knows; it starts where a generation does.
    """
    if expert >= len(data.tasks):
        return data.start
    folds, near = data.folds, int(data.folds.near[expert])
    return folds.starts[near if is_near and near >= 0 else int(folds.far[expert])]
