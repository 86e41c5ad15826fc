"""Builds a zoo: one multi-task adapter if the start asks for it, then experts in parallel, each whole or not there."""

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
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors.torch import load_file, save

from loragen.adapter import Adapter
from loragen.backbone import Backbone, DtypeName, choose_dtype
from loragen.config import StrictModel
from loragen.errors import ConfigError, ZooError
from loragen.evaluation.scoring import score_task
from loragen.experts import ExpertRecipe, MultitaskRecipe, Start, TaskData, train_expert, train_multitask
from loragen.files import atomic_write
from loragen.tasks import Task, TaskSet
from loragen.zoo import MANIFEST, MULTITASK, Card, Manifest, card_text, expert_files

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
    """The split whose train files the multi-task adapter sees."""
    only: tuple[str, ...] | None = None
    """Train these tasks alone; the rest can follow in a later run."""
    start_of: Path | None = None
    """Take frame and start from this zoo instead of making them."""
    frame: Literal["random", "multitask"] = "multitask"
    start: Literal["zero", "multitask"] = "multitask"
    recipe: ExpertRecipe = ExpertRecipe()
    multitask: MultitaskRecipe = MultitaskRecipe()
    score: bool = True
    """Score base and expert on each task's test file."""
    dtype: DtypeName = "auto"
    workers: int = Field(0, ge=0)
    """Processes that train experts; 0 takes one a core."""


@dataclass(frozen=True)
class Progress:
    """One step of a build, for whoever shows it."""

    stage: Literal["multitask", "experts"]
    done: int
    total: int
    card: Card | None = None


Report = Callable[[Progress], None]


def build(config: ZooConfig, report: Report = lambda _progress: None) -> None:
    """Train what is missing in ``config.out``; call again after an interruption to go on.

    Raises:
        ZooError: the folder holds a zoo of another base or recipe.
        TaskError: a task's data cannot be used.
    """
    task_set = TaskSet.from_yaml(config.tasks)
    jobs = _jobs(config, task_set)
    dtype = choose_dtype(config.dtype)
    backbone = Backbone.load(config.base, dtype=dtype)
    manifest = _manifest(config, backbone)
    _make_start(config, task_set, backbone, report)
    del backbone
    _train_all(config, manifest, jobs, dtype, report)


def _manifest(config: ZooConfig, backbone: Backbone) -> Manifest:
    wanted = Manifest(
        name=config.name,
        base=config.base,
        base_hash=backbone.fingerprint,
        frame=config.frame,
        start=config.start,
        recipe=config.recipe,
        multitask=config.multitask,
    )
    path = config.out / MANIFEST
    if not path.exists():
        atomic_write(path, wanted.to_yaml())
        return wanted
    met = Manifest.from_yaml(path)
    differing = list(_differences(met.model_dump(), wanted.model_dump()))
    if differing:
        raise ZooError(
            f"{config.out} holds a zoo made otherwise: {', '.join(differing)}; "
            f"give another `out`, or make the config agree with {path}."
        )
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


def _make_start(config: ZooConfig, task_set: TaskSet, backbone: Backbone, report: Report) -> None:
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
    start = Start.random(backbone.sites(recipe.target_modules), recipe.r, rng=rng)
    if "multitask" in (config.frame, config.start):
        trained = _train_multitask(config, task_set, backbone, start, report)
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


def _train_multitask(config: ZooConfig, task_set: TaskSet, backbone: Backbone, start: Start, report: Report) -> Adapter:
    """Train one adapter on the pooled tasks; it stays in the zoo, as the baseline that it also is."""
    folder = config.out / MULTITASK
    if not folder.exists():
        total = config.multitask.steps
        trained, history = train_multitask(
            task_set.split(config.pooled),
            backbone,
            start,
            config.recipe,
            config.multitask,
            train_a=config.frame == "multitask",
            checkpoints=config.out / ".multitask.partial",
            on_step=lambda step: report(Progress("multitask", min(step, total), total)),
        )
        adapter = Adapter.from_factors(
            trained.lora_A, trained.lora_B, base_model_name_or_path=config.base, task_type="FEATURE_EXTRACTION"
        )
        adapter.save(folder, extra_files={"losses.json": json.dumps(history)})
        shutil.rmtree(config.out / ".multitask.partial")
    return Adapter.load(folder)


# --- workers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bench:
    """What a worker process keeps between experts."""

    backbone: Backbone
    start: Start
    manifest: Manifest
    config: ZooConfig


_bench: _Bench | None = None


def _open_bench(config: ZooConfig, manifest: Manifest, dtype: torch.dtype, threads: int) -> None:
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _bench = _Bench(Backbone.load(config.base, dtype=dtype), read_start(config.out), manifest, config)


def _end_with_parent() -> None:
    """Without this, the workers of a parent that was killed wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _train_one(task: Task, split: str) -> Card:
    assert _bench is not None
    bench, begun = _bench, time.monotonic()
    expert = train_expert(task, bench.backbone, bench.start, bench.manifest.recipe)
    card = Card.of(
        task,
        expert,
        bench.manifest,
        split=split,
        seconds=round(time.monotonic() - begun, 1),
        dtype=str(next(bench.backbone.model.parameters()).dtype).removeprefix("torch."),
        versions={name: version(name) for name in ("loragen", "torch", "transformers")},
    )
    adapter, files = expert_files(expert, card)
    if bench.config.score:
        card = _scored(card, task, adapter, bench)
        files["card.yaml"] = card_text(card)
    adapter.save(bench.config.out / "experts" / task.id, extra_files=files)
    return card


def _score_one(task: Task, card: Card) -> Card:
    assert _bench is not None
    folder = _bench.config.out / "experts" / task.id
    card = _scored(card, task, Adapter.load(folder), _bench)
    atomic_write(folder / "card.yaml", card_text(card))
    return card


def _scored(card: Card, task: Task, adapter: Adapter, bench: _Bench) -> Card:
    data = TaskData.of(task, task.load_test(), bench.backbone, max_length=bench.manifest.recipe.score_length)
    scores = {"before": score_task(bench.backbone, None, data), "after": score_task(bench.backbone, adapter, data)}
    return card.model_copy(update=scores)


def _train_all(
    config: ZooConfig, manifest: Manifest, jobs: Sequence[tuple[Task, str]], dtype: torch.dtype, report: Report
) -> None:
    calls: list[tuple[Callable[..., Card], tuple[object, ...]]] = []
    done = 0
    for task, split in jobs:
        path = config.out / "experts" / task.id / "card.yaml"
        card = Card.from_yaml(path) if path.exists() else None
        if card is None:
            calls.append((_train_one, (task, split)))
        elif config.score and card.after is None:
            calls.append((_score_one, (task, card)))
        else:
            done += 1
    report(Progress("experts", done, len(jobs)))
    if not calls:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = config.workers or cores
    # "spawn" because forked children inherit the parent's OpenMP threads, which do not survive a fork.
    pool = ProcessPoolExecutor(
        min(workers, len(calls)),
        mp_context=get_context("spawn"),
        initializer=_open_bench,
        # The number of threads bears on the last bits: it does not go by how much there is left to do.
        initargs=(config, manifest, dtype, max(1, cores // workers)),
    )
    try:
        pending = {pool.submit(function, *arguments) for function, arguments in calls}
        while pending:
            finished, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                done += 1
                report(Progress("experts", done, len(jobs), future.result()))
    except BrokenProcessPool as error:
        raise ZooError(
            f"A process that trained experts was ended from outside, perhaps for want of memory; what was finished is "
            f"kept. Build again to go on, with fewer `workers` than {workers} if memory is short."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
