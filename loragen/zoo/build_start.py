"""Frame and start of a zoo: the A that its experts share and the B that they begin with, settled before the first."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from loragen.adapters.adapter import Lora
from loragen.adapters.tensor_file import read_tensors
from loragen.bases.base import Base
from loragen.errors import ZooError, cut
from loragen.files import atomic_write
from loragen.progress import Progress
from loragen.recipes.expert import Start
from loragen.recipes.multitask import train_multitask
from loragen.tasks.task_set import Task
from loragen.training.threads import few_threads
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.card import MULTITASK_FOLDER

START = "start.safetensors"
"""File of a zoo for its frame and start."""


def write_start(zoo: Path, start: Start) -> None:
    """Settle the frame and start of a zoo to be built."""
    tensors = {f"{site}.lora_A": a.contiguous() for site, a in start.lora_A.items()}
    tensors |= {f"{site}.lora_B": b.contiguous() for site, b in start.lora_B.items()}
    atomic_write(zoo / START, save(tensors))


def read_start(zoo: Path) -> Start:
    """The frame and start that a zoo's experts were trained from.

    Raises:
        ZooError: the file is missing, damaged or replaced.
    """
    tensors, _ = read_tensors(zoo / START)
    sites = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    if not sites or {f"{s}.lora_{factor}" for s in sites for factor in "AB"} != tensors.keys():
        raise ZooError(f"{cut(zoo / START)} does not hold lora_A and lora_B of the same sites; restore it.")
    start = Start({s: tensors[f"{s}.lora_A"] for s in sites}, {s: tensors[f"{s}.lora_B"] for s in sites})
    for site in sites:
        a, b = start.lora_A[site], start.lora_B[site]
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or not a.dtype == b.dtype == torch.float32:
            raise ZooError(f"{cut(zoo / START)} holds factors of {site} that do not go together; restore it.")
    return start


def make_start(config: ZooConfig, pooled: Sequence[Task], base: Base, progress: Progress) -> None:
    """Settle frame and start as the config asks, unless they are there: from another zoo, at random or by training.

    Raises:
        ZooError: ``start_of`` names a folder without them.
    """
    if (config.out / START).exists():
        return
    if config.start_of is not None:
        taken = config.start_of / START
        if not taken.is_file():
            raise ZooError(f"`start_of` names {config.start_of}, which has no {START}; name the folder of a zoo.")
        write_start(config.out, read_start(config.start_of))
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
    write_start(config.out, start)


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
