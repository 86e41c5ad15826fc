"""Frame and start of a zoo: the A that its experts share and the B that they begin with, settled before the first."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.errors import ZooError
from loragen.progress import Progress
from loragen.recipes.expert import Start
from loragen.recipes.methods.lora_sb import GRADIENTS, LoraSB, shared_bases
from loragen.recipes.multitask import train_multitask
from loragen.tasks.task_set import Task
from loragen.training.threads import few_threads
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.start import START, read_start, write_start


def make_start(config: ZooConfig, pooled: Sequence[Task], base: Base, progress: Progress) -> None:
    """Settle frame and start as the config asks, unless they are there.

    They are another zoo's, random, trained, or made of gradients.

    Raises:
        ZooError: ``start_of`` names a folder without them, or with those of another kind.
        TaskError: the train file of a task cannot be used.
    """
    if (config.out / START).exists():
        return
    if config.start_of is not None:
        write_start(config.out, _taken(config.start_of, config.frame))
        return
    recipe = config.recipe
    rng = torch.Generator().manual_seed(recipe.seed)
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=rng)
    if config.wants_multitask:
        trained = _multitask(config, pooled, base, start, progress)
        if config.frame == "multitask":
            start = Start.at(trained) if config.start == "multitask" else Start.at(trained).from_zero()
        else:
            start = Start(start.lora_A, {site: trained.lora_B[site].float() for site in trained.sites})
    elif config.frame == GRADIENTS:
        start = _bases(config, pooled, base, start, progress)
    write_start(config.out, start)


def _taken(zoo: Path, frame: str) -> Start:
    """Frame and start of another zoo."""
    if not (zoo / START).is_file():
        raise ZooError(f"`start_of` names {zoo}, which has no {START}; name the folder of a zoo.")
    start = read_start(zoo)
    if start.holds_bases != (frame == GRADIENTS):
        raise ZooError(
            f"`start_of` names {zoo}, whose {START} {'holds' if start.holds_bases else 'does not hold'} bases of both "
            f"sides, and 'frame: {frame}' was asked for; 'frame: {GRADIENTS}' takes them, and it alone."
        )
    return start


def _bases(config: ZooConfig, pooled: Sequence[Task], base: Base, start: Start, progress: Progress) -> Start:
    """Bases that all experts share, from the gradients of the pooled tasks."""
    assert isinstance(config.recipe, LoraSB), "the config is checked"
    with few_threads(base.number_of_parameters):
        return shared_bases(
            pooled, base, start, config.recipe, on_task=lambda done: progress("gradients", done, len(pooled))
        )


def _multitask(config: ZooConfig, pooled: Sequence[Task], base: Base, start: Start, progress: Progress) -> Lora:
    """Train one adapter on the pooled tasks; it stays in the zoo, as the baseline that it also is."""
    folder, partial = config.out / MULTITASK_FOLDER, config.out / ".multitask.partial"
    if not folder.exists():
        total = config.multitask.steps
        with few_threads(base.number_of_parameters):
            trained, history = train_multitask(
                pooled,
                base,
                start,
                config.recipe,
                config.multitask,
                train_a=config.frame == "multitask",
                checkpoints=partial,
                on_step=lambda step: progress("multi-task steps", min(step, total), total),
            )
        adapter_of(trained, base).save(folder, extra_files={"losses.json": json.dumps(history)})
    shutil.rmtree(partial, ignore_errors=True)
    return Lora.load(folder)


def adapter_of(trained: Start, base: Base) -> Lora:
    """Trained factors as an adapter of their base."""
    return Lora.from_factors(
        trained.lora_A,
        trained.lora_B,
        base_model_name_or_path=base.name,
        task_type=base.task_type,
        fan_in_fan_out=base.stores_transposed(trained.lora_A),
    )
