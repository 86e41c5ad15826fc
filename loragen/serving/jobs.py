"""Generations that take longer than a request: one after the other in a thread, with progress to follow."""

import asyncio
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from loragen.errors import ConfigError, LoragenError
from loragen.files import atomic_write
from loragen.progress import Progress

State = Literal["waiting", "at work", "done", "failed", "cancelled", "gone"]
ENDED = ("done", "failed", "cancelled", "gone")
CANCELLED = "The job was cancelled."
KEPT = 1_000
"""Jobs that are remembered."""
UNFINISHED = ".jobs.json"
"""File beside the adapters that names jobs under way, so that a new server knows what a killed one left."""
_TICK = 0.2
"""Seconds between looks at a job's progress."""


class TooMany(ConfigError):
    """As many jobs wait as may."""


class Cancelled(Exception):
    """A job is to end."""


@dataclass(eq=False)
class Job:
    """A generation under way, or what became of it."""

    id: str
    names: tuple[str, ...]
    """Of the adapters that it makes."""
    state: State = "waiting"
    stage: str = ""
    step: int = 0
    steps: int = 0
    error: str | None = None
    begun: float = field(default_factory=time.time)
    """Unix time."""
    is_unwanted: bool = False

    def told(self) -> dict[str, Any]:
        """The job as a client sees it."""
        return {
            "id": self.id,
            "object": "job",
            "status": self.state,
            "adapters": list(self.names),
            "progress": {"stage": self.stage, "step": self.step, "steps": self.steps},
            "error": self.error,
            "created": int(self.begun),
        }

    def progress(self, stage: str, step: int, steps: int) -> None:
        """Hear of progress.

        Raises:
            Cancelled: the job is unwanted.
        """
        if self.is_unwanted:
            raise Cancelled
        self.stage, self.step, self.steps = stage, step, steps


class Jobs:
    """The thread, and all jobs that are remembered."""

    def __init__(self, root: Path, most: int, wording: Callable[[str], str] = str) -> None:
        self._file, self._most = root / UNFINISHED, most
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._lock = threading.Lock()
        self._is_stopping = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loragen-jobs")
        self._wording = wording
        for name, names in self._left().items():
            error = "The server ended before this job did; ask for the adapter again."
            self._jobs[name] = Job(name, tuple(names), "gone", error=error)
        self._write()

    def _left(self) -> dict[str, list[str]]:
        """Jobs that another server left unfinished."""
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {str(name): [str(one) for one in names] for name, names in found.items()}
        except (OSError, ValueError, AttributeError, TypeError, RecursionError):
            return {}

    def _write(self) -> None:
        if self._is_stopping:  # what is under way now is for the next server to tell of
            return
        under_way = {job.id: list(job.names) for job in self._jobs.values() if job.state not in ENDED}
        atomic_write(self._file, json.dumps(under_way))

    @property
    def unfinished(self) -> int:
        """Jobs that wait or are at work."""
        return sum(job.state not in ENDED for job in list(self._jobs.values()))

    def claimed(self) -> set[str]:
        """Names of adapters that unfinished jobs will make."""
        return {name for job in list(self._jobs.values()) if job.state not in ENDED for name in job.names}

    def start(self, names: Sequence[str], work: Callable[[Progress], None]) -> Job:
        """Let a generation wait for its turn.

        Raises:
            TooMany: as many wait as may.
        """
        with self._lock:
            if self.unfinished >= self._most:
                raise TooMany(f"{self._most} jobs wait or are at work, which is the most; try again later.")
            job = Job(secrets.token_hex(8), tuple(names))
            self._jobs[job.id] = job
            while len(self._jobs) > KEPT:
                self._jobs.popitem(last=False)
            self._write()
        self._thread.submit(self._run, job, work)
        return job

    def _run(self, job: Job, work: Callable[[Progress], None]) -> None:
        with self._lock:
            if job.state in ENDED:
                return
            job.state = "at work"
        try:
            job.progress("starting", 0, 1)
            work(job.progress)
            job.state = "done"
        except Cancelled:
            job.error, job.state = CANCELLED, "cancelled"
        except LoragenError as error:
            job.error, job.state = self._wording(str(error)), "failed"
        except Exception as error:  # a fault of ours: those who wait must hear of it, but not of its insides
            job.error, job.state = f"The generation failed ({type(error).__name__}).", "failed"
        finally:
            with self._lock:
                self._write()

    def cancel(self, job: Job) -> None:
        """End a job: at once if it waits, else at its next step."""
        with self._lock:
            job.is_unwanted = True
            if job.state == "waiting":
                job.error, job.state = CANCELLED, "cancelled"
                self._write()

    def get(self, name: str) -> Job | None:
        """A job by its id."""
        return self._jobs.get(name)

    async def events(self, job: Job) -> AsyncIterator[dict[str, Any]]:
        """What becomes of a job: whenever something changes, and its end."""
        last: dict[str, Any] | None = None
        while True:
            told = job.told()
            if told != last:
                yield told
                last = told
            if told["status"] in ENDED or self._is_stopping:
                return
            await asyncio.sleep(_TICK)

    def wind_down(self) -> None:
        """Let what is under way end at its next step; the file keeps its names for the next server."""
        with self._lock:
            self._is_stopping = True
        for job in list(self._jobs.values()):
            job.is_unwanted = True

    def stop(self) -> None:
        """Wind down, and wait for the end."""
        self.wind_down()
        self._thread.shutdown(cancel_futures=True)
