"""Executor of a build on Ray: jobs run in actors of a cluster, each with a base of its own.

What an actor begins with (frame, start, folds) goes to it through Ray's object store and what its job gives comes back
as bytes, which this process writes: no other machine needs the zoo's folder. Each needs loragen of the same version,
and the base and the tasks' files under the names that the configs give.
"""

import importlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from loragen.errors import ConfigError, MissingExtraError, cut
from loragen.zoo.build_jobs import BuildContext, Job
from loragen.zoo.executors import Executor, available_cores
from loragen.zoo.ray_config import RayConfig
from loragen.zoo.ray_crew import Crew

_LONGEST_KNOCK = 10.0
"""Seconds for the head of a cluster to answer."""


@dataclass(frozen=True)
class OnRay(Executor):
    """Runs jobs in actors of a Ray cluster."""

    config: RayConfig
    workers: int
    """At most; 0 is as many as the cluster has room for."""

    def connected(self) -> AbstractContextManager[None]:
        """Reach the cluster, or start Ray on this machine; a connection that this process has already is used."""
        return _connected(_imported(), self.config.address)

    def run(self, build: BuildContext, jobs: Sequence[Job], done: Callable[[], None]) -> None:
        """Run all jobs.

        Raises:
            LoragenError: one raised it, or its worker was lost time and again; jobs that are finished stay finished.
        """
        crew = Crew(_imported(), self.config, self.workers, build, jobs)
        try:
            for job, files in crew.results():
                job.write(build.config.out, files)
                done()
            crew.dismiss()
        finally:
            for job, files in crew.finished():
                job.write(build.config.out, files)
            crew.end()


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers otherwise
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns that this will be so
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError(
            "'executor: ray' needs Ray, which is not installed: pip install 'loragen[ray]'; 'executor: processes' does "
            "without."
        ) from error


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    own = {"num_cpus": available_cores(), "include_dashboard": False} if address is None else {}
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **own)
    except ImportError as error:  # grpcio of an address ray://
        raise MissingExtraError(
            f"The address {cut(address)} needs Ray's client ({cut(error)}): pip install 'ray[client]'"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # ConnectionError among them
        raise ConfigError(
            f"There is no Ray at {cut(address or 'this machine')}: {cut(error)} Give `ray.address` as HOST:PORT of a "
            "cluster's head, 'auto' on a machine of the cluster, or none to start Ray here."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has one of its own, for good


def _knock(address: str | None) -> None:
    """Try whether anybody listens at HOST:PORT; Ray itself tries for minutes before it gives up.

    Raises:
        OSError: nobody does.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_LONGEST_KNOCK):
            pass
