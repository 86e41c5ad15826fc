"""Builds a zoo: one multi-task adapter if the start asks for it, then experts and folds in parallel.

Everything is whole or not there.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from loragen.bases.devices import choose_dtype
from loragen.errors import ZooError
from loragen.files import atomic_write, sweep
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_jobs import BuildContext, Job, checkpoints_of, open_base_of
from loragen.zoo.build_plan import BuildPlan, plan_work
from loragen.zoo.build_start import make_start
from loragen.zoo.build_work import BuildWork, manifest_there
from loragen.zoo.card import EXPERTS, ZOO_MANIFEST, Manifest
from loragen.zoo.cards import refuse_packed
from loragen.zoo.executors import Executor, choose_executor
from loragen.zoo.folds import FOLDS, fold_folders, read_plan
from loragen.zoo.ray_executor import OnRay
from loragen.zoo.zoo import Zoo


def build_zoo(
    config: ZooConfig | Path,
    overrides: Sequence[str] = (),
    *,
    progress: Progress = silent,
    on_plan: Callable[[BuildPlan], None] | None = None,
    only_plan: bool = False,
) -> Zoo | None:
    """Train what is missing in a zoo's folder; call again after an interruption to go on.

    Args:
        config: settings, or a YAML file of them.
        overrides: ``key.sub=value`` each, for a YAML file.
        progress: called with the stage ("multi-task steps", "gradients", "experts" or "folds"), the steps done and
            their total.
        on_plan: called with the plan before any work; without it nothing is timed.
        only_plan: end there, with nothing written, and return `None`.

    Raises:
        ConfigError: tasks or folds are asked for that there cannot be, or another process builds this zoo.
        ZooError: the folder holds a zoo of another base or recipe, or folds of other tasks.
        TaskError: a task's data cannot be used.
        MissingExtraError: ``executor: ray`` is asked for, and Ray is not installed.
    """
    work = BuildWork.of(config if isinstance(config, ZooConfig) else ZooConfig.from_yaml(config, overrides))
    dtype = choose_dtype(work.config.dtype)
    base = open_base_of(work.config, dtype)
    build = BuildContext(work.config, _agreed_manifest(work.config, base.fingerprint), dtype)
    _check_folds(work)
    _check_start(build)
    if on_plan is not None:
        on_plan(plan_work(work, base))
    if only_plan:
        return None
    with lock(work.config.out):
        _agreed_manifest(work.config, base.fingerprint)  # another build may have ended meanwhile
        _write_manifest(build)
        executor = _executor_of(work.config)
        with executor.connected() if _has_jobs(work) else nullcontext():  # a cluster that is not there is known at once
            make_start(work.config, work.pooled, base, progress)
            del base
            _train(build, work, executor, progress)
        _sweep(work.config.out)
    return Zoo.open(work.config.out)


def _executor_of(config: ZooConfig) -> Executor:
    return OnRay(config.ray, config.workers) if config.executor == "ray" else choose_executor(config.workers)


def _has_jobs(work: BuildWork) -> bool:
    return bool(work.expert_jobs() or work.fold_jobs())


def _train(build: BuildContext, work: BuildWork, executor: Executor, progress: Progress) -> None:
    """Train experts and folds; folds come first where experts begin at them."""
    stages = [("experts", work.expert_jobs(), len(work.experts)), ("folds", work.fold_jobs(), len(work.folds))]
    for stage, jobs, total in reversed(stages) if work.config.start == "folds" else stages:
        if total or stage == "experts":
            _run(build, stage, jobs, total, executor, progress)


def _sweep(zoo: Path) -> None:
    """Clear away what earlier builds left that were killed."""
    for folder in (zoo, zoo / EXPERTS, zoo / FOLDS):
        sweep(folder)
    for fold in fold_folders(zoo / FOLDS):
        shutil.rmtree(checkpoints_of(fold), ignore_errors=True)


def _run(
    build: BuildContext, stage: str, jobs: Sequence[Job], total: int, executor: Executor, progress: Progress
) -> None:
    """Run the jobs of one stage; the ones missing of ``total`` were done in an earlier build."""
    finished = total - len(jobs)
    progress(stage, finished, total)

    def done() -> None:
        nonlocal finished
        finished += 1
        progress(stage, finished, total)

    if jobs:
        executor.run(build, jobs, done)


def _agreed_manifest(config: ZooConfig, base_hash: str) -> Manifest:
    """The manifest of the zoo to be built, which agrees with that of the zoo that is there.

    Raises:
        ZooError: they differ in more than in folds that are added, or that zoo is packed.
    """
    refuse_packed(config.out)
    wanted = Manifest(
        name=config.name,
        base=config.base,
        base_hash=base_hash,
        frame=config.frame,
        start=config.start,
        recipe=config.recipe,
        multitask=config.multitask,
        folds=config.folds,
    )
    there = manifest_there(config.out)
    if there is None:
        return wanted
    # Folds can be added to a zoo that has none, and stay where the config asks for none.
    met = there.model_copy(update={"folds": there.folds or config.folds})
    wanted = wanted.model_copy(update={"folds": config.folds or there.folds, "generator": there.generator})
    differing = list(_differences(met.model_dump(), wanted.model_dump()))
    if differing:
        raise ZooError(
            f"{config.out} already holds a zoo built with other settings: {', '.join(differing)}; "
            f"give another `out`, or make the config agree with {config.out / ZOO_MANIFEST}."
        )
    return met


def _write_manifest(build: BuildContext) -> None:
    if manifest_there(build.config.out) != build.manifest:
        atomic_write(build.config.out / ZOO_MANIFEST, build.manifest.to_yaml())


def _differences(met: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if isinstance(value, dict):
            yield from (f"{key}.{rest}" for rest in _differences(met.get(key) or {}, value))
        elif met.get(key) != value:
            yield f"{key} ({met.get(key)} there, {value} asked for)"


def _check_folds(work: BuildWork) -> None:
    """The folds that are there hold out what the plans say; else some tasks would be held out in none."""
    config = work.config
    for number, plan in enumerate(work.folds):
        folder = config.out / FOLDS / str(number)
        if folder.exists() and read_plan(folder) != plan:
            raise ZooError(
                f"{folder} holds out other tasks than it would now: the pooled tasks or their families have changed; "
                f"undo that, or remove {folder.parent} to train all folds again."
            )


def _check_start(build: BuildContext) -> None:
    config = build.config
    if config.start != "folds" or config.folds is not None or fold_folders(build.start_folds):
        return
    raise ZooError(
        f"`start_of` names {config.start_of}, which has no folds to begin at; build them there, or ask for `folds`."
    )
