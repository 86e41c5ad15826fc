"""Executors of a build: run its jobs in this process, or in several worker processes of this machine."""

import os
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event

import torch

from loragen.errors import ZooError
from loragen.zoo.build_jobs import BuildContext, Files, Job, WorkerContext


class Executor(ABC):
    """Runs jobs that are independent of one another; another kind of cluster is one class more."""

    @abstractmethod
    def connected(self) -> AbstractContextManager[None]:
        """Reach the machines that run jobs, for as long as the block lasts.

        Raises:
            MissingExtraError: a library that this needs is not installed.
            ConfigError: they cannot be reached.
        """

    @abstractmethod
    def run(self, build: BuildContext, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        """Run all jobs; in this process write what each gives, and call ``done``.

        Raises:
            LoragenError: one raised it; jobs that are finished stay finished.
        """


@dataclass(frozen=True)
class InProcess(Executor):
    """Runs jobs in this process, one after the other."""

    def connected(self) -> AbstractContextManager[None]:
        """Nothing is to be reached."""
        return nullcontext()

    def run(self, build: BuildContext, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        """Run all jobs."""
        worker = WorkerContext.open(build)
        for job in jobs:
            job.write(build.config.out, worker.run(job))
            done()


@dataclass(frozen=True)
class Processes(Executor):
    """Runs jobs in worker processes, each with a base of its own."""

    workers: int
    threads: int
    """Of each worker. Their number bears on the last bits, so it does not go by how much there is left to do."""

    def connected(self) -> AbstractContextManager[None]:
        """Nothing is to be reached."""
        return nullcontext()

    def run(self, build: BuildContext, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        """Run all jobs."""
        # "spawn" because forked children inherit the parent's OpenMP threads, which do not survive a fork.
        context = get_context("spawn")
        stop = context.Event()
        pool = ProcessPoolExecutor(
            min(self.workers, len(jobs)),
            mp_context=context,
            initializer=_open_worker,
            initargs=(build, self.threads, stop),
        )
        pending: dict[Future[Files], Job] = {}
        try:
            with interrupts_held_back():  # a worker takes this over, from its first moment
                for job in jobs:
                    pending[pool.submit(_run_job, job)] = job
            while pending:
                finished, _ = wait(pending, return_when=FIRST_COMPLETED)
                for future in sorted(finished, key=_has_failed):
                    pending[future].write(build.config.out, future.result())
                    del pending[future]
                    done()
        except BrokenProcessPool as error:
            raise ZooError(
                "A worker process was ended from outside, perhaps for want of memory; what was finished is kept. "
                f"Build again to go on, with fewer `workers` than {self.workers} if memory is short."
            ) from error
        finally:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for future, job in pending.items():  # those that were finished while the others ended
                if future.done() and not _has_failed(future):
                    job.write(build.config.out, future.result())


def _has_failed(future: Future[Files]) -> bool:
    return future.cancelled() or future.exception() is not None


@contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Have Ctrl-C wait until the block ends; processes that are started meanwhile never hear of it."""
    if not hasattr(signal, "pthread_sigmask"):  # not on Windows
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def choose_executor(workers: int) -> Executor:
    """The executor for a number of worker processes: 0 is one a core, and 1 is this process."""
    cores = available_cores()
    workers = workers or cores
    return InProcess() if workers == 1 else Processes(workers, max(1, cores // workers))


def available_cores() -> int:
    """The number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_worker: WorkerContext | None = None
"""In a worker process, what it keeps between jobs."""


def _open_worker(build: BuildContext, threads: int, stop: Event) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C means
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _worker = WorkerContext.open(build, stop)


def _run_job(job: Job) -> Files:
    assert _worker is not None
    return _worker.run(job)


def end_with_parent() -> None:
    """Without this, the workers of a parent that was killed wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
