"""Workers of a build on Ray: what each does in its process of the cluster, and how the build leads them."""

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from loragen.errors import ZooError, cut
from loragen.tasks.remote_files import clear_copies
from loragen.zoo.build_jobs import Beginnings, BuildContext, Files, Job, WorkerContext, open_base_of
from loragen.zoo.ray_config import RayConfig

_LOOK = 2.0
"""Seconds after which the cluster's nodes are looked at anew."""
_IN_ORDER = 10.0
"""Seconds that workers have to end in order when all is done."""


# --- in the cluster ---


class RayWorker:
    """An actor: a process of the cluster that opens a base of its own and then runs one job after another."""

    def __init__(self) -> None:
        self._context: WorkerContext | None = None

    def open(self, build: BuildContext, beginnings: Beginnings, threads: int, folder: Path, wanted: str) -> None:
        """Load the base.

        Raises:
            ZooError: the base or loragen is another one than where the build began.
        """
        if folder.is_dir():
            os.chdir(folder)  # so that relative paths mean what they do in the process of the build
        torch.set_num_threads(threads)
        if (met := version("loragen")) != wanted:
            raise ZooError(f"{_here()} has loragen {met}, and the build began with {wanted}; install the same there.")
        base = open_base_of(build.config, build.dtype)
        if base.fingerprint != build.manifest.base_hash:
            raise ZooError(
                f"{_here()} has other weights of {build.config.base} ({base.fingerprint[:12]}) than those that the "
                f"build began with ({build.manifest.base_hash[:12]}); give it the same."
            )
        self._context = WorkerContext(build, base, beginnings, is_remote=True)

    def run(self, job: Job) -> Files:
        """Run a job."""
        assert self._context is not None
        return self._context.run(job)

    def close(self) -> None:
        """Clear away what was kept on the worker's machine."""
        clear_copies()


def _here() -> str:
    return f"The worker on {socket.gethostname()}"


# --- in the process of the build ---


@dataclass(frozen=True)
class _Attempt:
    """A job, and how often a worker was lost with it."""

    job: Job
    losses: int = 0


class Crew:
    """The workers of one run, and who does what.

    A worker is opening, idle, or busy with one job. When it is lost, with its process or its whole node, its job goes
    back to the end of the queue and another worker takes it up; a new worker comes where there is room for one.
    """

    def __init__(self, ray: Any, config: RayConfig, most: int, build: BuildContext, jobs: Sequence[Job]) -> None:
        self._ray, self._config, self._build = ray, config, build
        self._most = most
        self._waiting = deque(_Attempt(job) for job in jobs)
        self._actors: list[Any] = []
        """All that may live: opening, idle or busy."""
        self._opening: dict[Any, Any] = {}
        """What tells that an actor is open → the actor."""
        self._idle: list[Any] = []
        self._busy: dict[Any, tuple[Any, _Attempt]] = {}
        """What will be a job's result → its actor and the job."""
        self._failed_openings = 0
        self._quiet_since = time.monotonic()
        device = config.device or build.config.device
        self._build_ref = ray.put(replace(build, config=build.config.model_copy(update={"device": device})))
        self._beginnings_ref = ray.put(Beginnings.read(build))
        self._actor = ray.remote(RayWorker).options(
            num_cpus=config.cpus_per_worker, num_gpus=config.gpus_per_worker, max_restarts=0
        )

    def results(self) -> Iterator[tuple[Job, Files]]:
        """Each job with what it gave, as they end; all workers have work meanwhile.

        Raises:
            LoragenError: a job or a worker raised it, or was lost too often, or no worker could be had.
        """
        while self._waiting or self._busy:
            self._hire()
            self._assign()
            awaited = [*self._opening, *self._busy]
            if not awaited:
                time.sleep(_LOOK / 4)
            ready = self._ray.wait(awaited, num_returns=1, timeout=_LOOK)[0] if awaited else []
            for ref in ready:
                if ref in self._opening:
                    self._opened(ref)
                elif (ended := self._ended(ref)) is not None:
                    self._assign()  # before the result is written
                    yield ended
            self._check_patience()

    def finished(self) -> Iterator[tuple[Job, Files]]:
        """Each job that was finished when the build ended before its time."""
        busy = list(self._busy)
        for ref in self._ray.wait(busy, num_returns=len(busy), timeout=0)[0] if busy else ():
            try:
                files = self._ray.get(ref, timeout=_IN_ORDER)
            except Exception:  # it failed as well; the first error is told
                continue
            yield self._busy[ref][1].job, files

    def dismiss(self) -> None:
        """Let idle workers clear away what they keep."""
        with suppress(self._ray.exceptions.RayError):
            self._ray.get([actor.close.remote() for actor in self._idle], timeout=_IN_ORDER)

    def end(self) -> None:
        """End all workers, whatever they do."""
        for actor in list(self._actors):
            self._end(actor)

    def _end(self, actor: Any) -> None:
        self._actors.remove(actor)
        with suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(actor)

    def _hire(self) -> None:
        """Ask for as many workers as there is room and work for."""
        room = self._room()
        most = min(self._most, room) if self._config.address is None and self._most else self._most or room
        for _ in range(min(most, len(self._waiting) + len(self._busy)) - len(self._actors)):
            actor = self._actor.remote()
            opened = actor.open.remote(
                self._build_ref,
                self._beginnings_ref,
                self._config.cpus_per_worker,
                Path.cwd(),
                version("loragen"),
            )
            self._actors.append(actor)
            self._opening[opened] = actor

    def _room(self) -> int:
        """Workers that the nodes which are there could hold if nothing else ran."""
        needs = {"CPU": float(self._config.cpus_per_worker), "GPU": self._config.gpus_per_worker}
        return sum(
            min(int(node["Resources"].get(kind, 0.0) / each + 1e-6) for kind, each in needs.items() if each)
            for node in self._ray.nodes()
            if node["Alive"]
        )

    def _assign(self) -> None:
        while self._idle and self._waiting:
            actor, attempt = self._idle.pop(), self._waiting.popleft()
            self._busy[actor.run.remote(attempt.job.carrying(self._build.config.out))] = (actor, attempt)

    def _opened(self, ref: Any) -> None:
        actor = self._opening.pop(ref)
        try:
            self._result(ref)
        except self._ray.exceptions.RayError as error:
            self._end(actor)
            self._failed_openings += 1
            if self._failed_openings > self._config.retries:
                raise ZooError(
                    f"Workers were lost {self._failed_openings} times while they loaded {self._build.config.base}, "
                    f"perhaps for want of memory ({cut(error)}); what was finished is kept. Build again to go on, with "
                    "more `ray.cpus_per_worker` if memory is short: fewer workers share a machine then."
                ) from error
            return
        self._failed_openings = 0
        self._idle.append(actor)

    def _ended(self, ref: Any) -> tuple[Job, Files] | None:
        actor, attempt = self._busy.pop(ref)
        try:
            files: Files = self._result(ref)
        except self._ray.exceptions.RayError as error:
            self._end(actor)
            attempt = replace(attempt, losses=attempt.losses + 1)
            if attempt.losses > self._config.retries:
                raise ZooError(
                    f"The worker of {attempt.job.name} was lost {attempt.losses} times, perhaps for want of memory "
                    f"({cut(error)}); what was finished is kept. Build again to go on; more `ray.cpus_per_worker` puts "
                    "fewer workers on a machine, and more `ray.retries` tries longer."
                ) from error
            self._waiting.append(attempt)
            return None
        self._idle.append(actor)
        return attempt.job, files

    def _result(self, ref: Any) -> Any:
        """A result that is there.

        Raises:
            RayError: the worker was lost, or the result with its node.
            Exception: the worker raised it.
        """
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def _check_patience(self) -> None:
        """Give up where no worker comes."""
        now = time.monotonic()
        if self._idle or self._busy:
            self._quiet_since = now
        is_in_vain = self._config.address is None and not self._opening and self._waiting and not self._room()
        if now - self._quiet_since > self._config.patience or (is_in_vain and not self._busy):
            asked = f"{self._config.cpus_per_worker} CPUs and {self._config.gpus_per_worker:g} GPUs"
            raise ZooError(
                f"No worker was ready within {now - self._quiet_since:.0f} seconds; each wants {asked}, and the "
                f"cluster has {_told(self._ray.cluster_resources())}. Lower `ray.cpus_per_worker` or "
                "`ray.gpus_per_worker`, or raise `ray.patience` where the base takes long to load."
            )


def _told(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
