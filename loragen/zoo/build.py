"""Builds a zoo: one multi-task adapter if the start asks for it, then experts and folds in parallel.

Everything is whole or not there.
"""

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from safetensors.torch import load_file, save

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.bases.devices import DeviceName, DtypeName, choose_dtype
from loragen.bases.open import open_base
from loragen.config import StrictModel
from loragen.errors import ConfigError, ZooError
from loragen.files import atomic_write
from loragen.recipes.expert import ExpertRecipe, Start, train_expert
from loragen.recipes.multitask import MultitaskRecipe, train_multitask
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.card import MANIFEST, MULTITASK, Card, Manifest, card_text, expert_files
from loragen.zoo.folds import (
    FOLDS,
    PLAN,
    Fold,
    FoldPlan,
    FoldRecipe,
    assign,
    fold_folders,
    read_folds,
    read_plan,
    write_fold,
)

START = "start.safetensors"


class ZooConfig(StrictModel):
    """What `loragen zoo build` is told."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    out: Path
    """The zoo's folder, relative to where the command runs."""
    base: str
    tasks: Path
    """A task file, relative to where the command runs."""
    splits: tuple[str, ...]
    """Splits of the task file to train experts on."""
    pooled: str = "experts"
    """The split whose train files the multi-task adapter sees, and whose tasks folds hold out."""
    only: tuple[str, ...] | None = None
    """Train these tasks alone; the rest can follow in a later run."""
    start_of: Path | None = None
    """Take frame, start and, where experts begin at folds, those folds from this zoo instead of making them."""
    frame: Literal["random", "multitask"] = "multitask"
    start: Literal["zero", "multitask", "folds"] = "multitask"
    """Where an expert's B begins; ``folds`` is the fold that has not seen its family, so that what an expert adds is
    what its task needs and other families do not give, and the mean of the folds for tasks that no fold knows."""
    recipe: ExpertRecipe = ExpertRecipe()
    multitask: MultitaskRecipe = MultitaskRecipe()
    folds: FoldRecipe | None = None
    """None trains no folds, and leaves those of an earlier build alone."""
    score: bool = True
    """Score base and expert on each task's test file."""
    dtype: DtypeName = "auto"
    device: DeviceName = "cpu"
    workers: int = Field(0, ge=0)
    """Processes that train experts and folds; 0 takes one a core, and with 1 it is this one."""

    @model_validator(mode="after")
    def _folds_are_there_to_start_from(self) -> Self:
        if self.start == "folds" and self.folds is None and self.start_of is None:
            raise ValueError(
                "'start: folds' wants 'folds', at least how many ('number'), or 'start_of', a zoo with folds"
            )
        return self


@dataclass(frozen=True)
class Progress:
    """One step of a build, for whoever shows it."""

    stage: Literal["multitask", "experts", "folds"]
    done: int
    total: int
    card: Card | None = None


Report = Callable[[Progress], None]


def build(config: ZooConfig, report: Report = lambda _progress: None) -> None:
    """Train what is missing in ``config.out``; call again after an interruption to go on.

    Raises:
        ConfigError: tasks or folds are asked for that there cannot be.
        ZooError: the folder holds a zoo of another base or recipe, or folds of other tasks.
        TaskError: a task's data cannot be used.
    """
    task_set = TaskSet.from_yaml(config.tasks)
    jobs = _jobs(config, task_set)
    plans = _plans(config, task_set)
    dtype = choose_dtype(config.dtype)
    base = _open_base(config, dtype)
    manifest = _manifest(config, base)
    _check_folds(config, plans)
    _check_start(config)
    _make_start(config, task_set, base, report)
    del base
    workshop = _Workshop(config, manifest, dtype, report)
    if config.start == "folds":
        _train_folds(workshop, plans, task_set)
        _train_experts(workshop, jobs)
    else:
        _train_experts(workshop, jobs)
        _train_folds(workshop, plans, task_set)


def _open_base(config: ZooConfig, dtype: torch.dtype) -> Base:
    recipe = config.recipe
    return open_base(config.base, objective=recipe.objective, prompt=recipe.prompt, dtype=dtype, device=config.device)


def _manifest(config: ZooConfig, base: Base) -> Manifest:
    wanted = Manifest(
        name=config.name,
        base=config.base,
        base_hash=base.fingerprint,
        frame=config.frame,
        start=config.start,
        recipe=config.recipe,
        multitask=config.multitask,
        folds=config.folds,
    )
    path = config.out / MANIFEST
    if not path.exists():
        atomic_write(path, wanted.to_yaml())
        return wanted
    there = Manifest.from_yaml(path)
    # Folds can be added to a zoo that has none, and stay where the config asks for none.
    met = there.model_copy(update={"folds": there.folds or config.folds})
    wanted = wanted.model_copy(update={"folds": config.folds or there.folds})
    differing = list(_differences(met.model_dump(), wanted.model_dump()))
    if differing:
        raise ZooError(
            f"{config.out} holds a zoo made otherwise: {', '.join(differing)}; "
            f"give another `out`, or make the config agree with {path}."
        )
    if met != there:
        atomic_write(path, met.to_yaml())
    return met


def _differences(met: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if isinstance(value, dict):
            yield from (f"{key}.{rest}" for rest in _differences(met[key], value))
        elif met[key] != value:
            yield f"{key} ({met[key]} there, {value} asked for)"


def _jobs(config: ZooConfig, task_set: TaskSet) -> list[tuple[Task, str]]:
    jobs = [(task, split) for split in config.splits for task in task_set.split(split)]
    if config.only is not None:
        unknown = sorted(set(config.only) - {task.id for task, _ in jobs})
        if unknown:
            raise ConfigError(f"`only` names tasks outside the splits {list(config.splits)}: {', '.join(unknown)}.")
        jobs = [(task, split) for task, split in jobs if task.id in config.only]
    return jobs


def _plans(config: ZooConfig, task_set: TaskSet) -> tuple[FoldPlan, ...]:
    if config.folds is None:
        return ()
    rng = torch.Generator().manual_seed(config.recipe.seed)
    return assign(task_set.split(config.pooled), config.folds.number, rng=rng)


def _check_folds(config: ZooConfig, plans: Sequence[FoldPlan]) -> None:
    """The folds that are there hold out what the plans say; else some tasks would be held out in none."""
    for number, plan in enumerate(plans):
        folder = config.out / FOLDS / str(number)
        if folder.exists() and read_plan(folder) != plan:
            raise ZooError(
                f"{folder} holds out other tasks than it would now: the split {config.pooled!r}, or families of its "
                f"tasks, have changed; undo that, or remove {folder.parent} to train all folds again."
            )


def _fold_folder(config: ZooConfig) -> Path:
    """The folds that experts begin at: the zoo's own, or those of the zoo that its start is taken from."""
    taken = config.start_of if config.folds is None else None
    return (taken or config.out) / FOLDS


def _check_start(config: ZooConfig) -> None:
    if config.start != "folds" or config.folds is not None or fold_folders(_fold_folder(config)):
        return
    raise ZooError(
        f"`start_of` names {config.start_of}, which has no folds to begin at; build them there, or ask for `folds`."
    )


def _make_start(config: ZooConfig, task_set: TaskSet, base: Base, report: Report) -> None:
    path = config.out / START
    if path.exists():
        return
    if config.start_of is not None:
        if not (config.start_of / START).is_file():
            raise ZooError(f"`start_of` names {config.start_of}, which has no {START}; name the folder of a zoo.")
        atomic_write(path, (config.start_of / START).read_bytes())
        return
    recipe = config.recipe
    rng = torch.Generator().manual_seed(recipe.seed)
    start = Start.random(base.sites(recipe.target_modules), recipe.r, rng=rng)
    if "multitask" in (config.frame, config.start):
        trained = _train_multitask(config, task_set, base, start, report)
        if config.frame == "multitask":
            start = Start.at(trained) if config.start == "multitask" else Start.at(trained).from_zero()
        else:
            start = Start(start.lora_A, {site: trained.lora_B[site].float() for site in trained.sites})
    write_start(config.out, start)


def write_start(zoo: Path, start: Start) -> None:
    """Settle the frame and start of a zoo to be built."""
    tensors = {f"{site}.lora_A": a.contiguous() for site, a in start.lora_A.items()}
    tensors |= {f"{site}.lora_B": b.contiguous() for site, b in start.lora_B.items()}
    atomic_write(zoo / START, save(tensors))


def read_start(zoo: Path) -> Start:
    """The frame and start that a zoo's experts were trained from."""
    tensors = load_file(zoo / START)
    sites = [name.removesuffix(".lora_A") for name in tensors if name.endswith(".lora_A")]
    return Start({s: tensors[f"{s}.lora_A"] for s in sites}, {s: tensors[f"{s}.lora_B"] for s in sites})


def _train_multitask(config: ZooConfig, task_set: TaskSet, base: Base, start: Start, report: Report) -> Lora:
    """Train one adapter on the pooled tasks; it stays in the zoo, as the baseline that it also is."""
    folder = config.out / MULTITASK
    if not folder.exists():
        total = config.multitask.steps
        trained, history = train_multitask(
            task_set.split(config.pooled),
            base,
            start,
            config.recipe,
            config.multitask,
            train_a=config.frame == "multitask",
            checkpoints=config.out / ".multitask.partial",
            on_step=lambda step: report(Progress("multitask", min(step, total), total)),
        )
        _adapter(trained, base).save(folder, extra_files={"losses.json": json.dumps(history)})
        shutil.rmtree(config.out / ".multitask.partial")
    return Lora.load(folder)


def _adapter(trained: Start, base: Base) -> Lora:
    return Lora.from_factors(
        trained.lora_A,
        trained.lora_B,
        base_model_name_or_path=base.name,
        task_type=base.task_type,
        fan_in_fan_out=base.stores_transposed(trained.lora_A),
    )


# --- workers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """What a worker process keeps between experts, or folds."""

    base: Base
    start: Start
    manifest: Manifest
    config: ZooConfig
    stop: Event | None
    """Set when the build ends before its time: a fold, which takes long, then ends at its next step. None where this is
    the process of the build itself, which an interruption reaches at once."""


_bench: _Bench | None = None


def _open_bench(config: ZooConfig, manifest: Manifest, dtype: torch.dtype, threads: int, stop: Event) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _bench = _Bench(_open_base(config, dtype), read_start(config.out), manifest, config, stop)


def _end_with_parent() -> None:
    """Without this, the workers of a parent that was killed wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_one(task: Task, split: str) -> Card:
    assert _bench is not None
    bench, begun = _bench, time.monotonic()
    expert = train_expert(task, bench.base, _start_for(task, bench), bench.manifest.recipe)
    card = Card.of(
        task,
        expert,
        bench.manifest,
        split=split,
        seconds=round(time.monotonic() - begun, 1),
        dtype=str(next(bench.base.model.parameters()).dtype).removeprefix("torch."),
        versions={name: version(name) for name in ("loragen", "torch", "transformers")},
    )
    adapter, files = expert_files(expert, card)
    if bench.config.score:
        card = _scored(card, task, adapter, bench)
        files["card.yaml"] = card_text(card)
    adapter.save(bench.config.out / "experts" / task.id, extra_files=files)
    return card


def _start_for(task: Task, bench: _Bench) -> Start:
    """Where the expert of a task begins."""
    if bench.manifest.start != "folds":
        return bench.start
    folds = read_folds(_fold_folder(bench.config))
    unseen = [fold.adapter for fold in folds if task.id in fold.plan.far] or [fold.adapter for fold in folds]
    mean = weighted_sum(unseen, [1 / len(unseen)] * len(unseen))
    return Start(bench.start.lora_A, {site: mean.scaled_factors(site)[1] for site in bench.start.lora_B})


def _score_one(task: Task, card: Card) -> Card:
    assert _bench is not None
    folder = _bench.config.out / "experts" / task.id
    card = _scored(card, task, Lora.load(folder), _bench)
    atomic_write(folder / "card.yaml", card_text(card))
    return card


def _scored(card: Card, task: Task, adapter: Lora, bench: _Bench) -> Card:
    data = bench.base.prepare(task.load_test(), max_length=bench.manifest.recipe.score_length)
    scores = {"before": bench.base.score(data), "after": bench.base.score(data, adapter)}
    return card.model_copy(update=scores)


def _train_fold(number: int, plan: FoldPlan, tasks: Sequence[Task]) -> None:
    """Train B of one fold over the zoo's frame, from zero, on the tasks that it may see."""
    assert _bench is not None
    bench, recipe, folder = _bench, _bench.manifest.folds, _bench.config.out / FOLDS / str(number)
    assert recipe is not None

    def check_stop(_step: int = 0) -> None:
        if bench.stop is not None and bench.stop.is_set():
            raise KeyboardInterrupt

    check_stop()  # a pool hands out work ahead, which cannot be taken back
    checkpoints = folder.with_name(f".{number}.partial")
    if not (checkpoints / PLAN).exists() or read_plan(checkpoints) != plan:
        shutil.rmtree(checkpoints, ignore_errors=True)  # its state may have seen tasks that it must not see now
        atomic_write(checkpoints / PLAN, plan.to_yaml())

    trained, history = train_multitask(
        tasks,
        bench.base,
        bench.start.from_zero(),
        bench.manifest.recipe,
        recipe,
        train_a=False,
        checkpoints=checkpoints,
        on_step=check_stop,
    )
    write_fold(folder, Fold(plan, _adapter(trained, bench.base)), history)
    shutil.rmtree(checkpoints)


def _run_here(workshop: "_Workshop", stage: Literal["experts", "folds"], calls: Sequence["_Call"], total: int) -> None:
    """Make the calls in this process, one after the other."""
    global _bench
    config = workshop.config
    _bench = _Bench(_open_base(config, workshop.dtype), read_start(config.out), workshop.manifest, config, None)
    try:
        for done, (function, arguments) in enumerate(calls, total - len(calls) + 1):
            workshop.report(Progress(stage, done, total, function(*arguments)))
    finally:
        _bench = None


# --- what they are given to do -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Workshop:
    """What all work of a build has in common."""

    config: ZooConfig
    manifest: Manifest
    dtype: torch.dtype
    report: Report


_Call = tuple[Callable[..., Card | None], tuple[object, ...]]


def _train_experts(workshop: _Workshop, jobs: Sequence[tuple[Task, str]]) -> None:
    calls: list[_Call] = []
    for task, split in jobs:
        path = workshop.config.out / "experts" / task.id / "card.yaml"
        card = Card.from_yaml(path) if path.exists() else None
        if card is None:
            calls.append((_train_one, (task, split)))
        elif workshop.config.score and card.after is None:
            calls.append((_score_one, (task, card)))
    _run(workshop, "experts", calls, len(jobs))


def _train_folds(workshop: _Workshop, plans: Sequence[FoldPlan], task_set: TaskSet) -> None:
    if not plans:
        return
    pooled = task_set.split(workshop.config.pooled)
    calls: list[_Call] = [
        (_train_fold, (number, plan, tuple(task for task in pooled if task.id not in plan.held_out)))
        for number, plan in enumerate(plans)
        if not (workshop.config.out / FOLDS / str(number)).exists()
    ]
    _run(workshop, "folds", calls, len(plans))


def _run(workshop: _Workshop, stage: Literal["experts", "folds"], calls: Sequence[_Call], total: int) -> None:
    """Make the calls in worker processes; the ones missing of ``total`` were made in an earlier build."""
    config, report = workshop.config, workshop.report
    done = total - len(calls)
    report(Progress(stage, done, total))
    if not calls:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = config.workers or cores
    if workers == 1:
        _run_here(workshop, stage, calls, total)
        return
    # "spawn" because forked children inherit the parent's OpenMP threads, which do not survive a fork.
    context = get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(calls)),
        mp_context=context,
        initializer=_open_bench,
        # The number of threads bears on the last bits: it does not go by how much there is left to do.
        initargs=(config, workshop.manifest, workshop.dtype, max(1, cores // workers), stop),
    )
    try:
        pending = {pool.submit(function, *arguments) for function, arguments in calls}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                done += 1
                report(Progress(stage, done, total, future.result()))
    except BrokenProcessPool as error:
        raise ZooError(
            f"A process that trained {stage} was ended from outside, perhaps for want of memory; what was finished is "
            f"kept. Build again to go on, with fewer `workers` than {workers} if memory is short."
        ) from error
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
