"""The processes of a training on several devices, one a device: started here, or by torchrun.

Each reads the config and the zoo by itself and fits the generator alongside. Lightning's own ways of starting them do
not suit a library: ``ddp`` runs the caller's command line again, ``ddp_spawn`` pickles what is trained, closures among
it, and a fork inherits threads and CUDA contexts that do not survive it. A process that is started here gets its config
on standard input and ends as soon as that closes, however the first process ends.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError, GeneratorError, LoragenError, cut
from loragen.generators.registry import config_type, row_of
from loragen.generators.trained import TrainConfig
from loragen.training.ranks import Rank, joined, meeting_point
from loragen.zoo.executors import available_cores
from loragen.zoo.zoo import Zoo

_PROGRAM = "from loragen.generators.processes import main; main()"
_MOMENT = 20.0
"""Seconds in which a process whose peer has failed, or has ended its training, should have ended too."""


def launched_rank(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """The rank that torchrun gave this process; `None` where it did not start it."""
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    return Rank(int(environment["RANK"]), int(environment["WORLD_SIZE"]))


@contextmanager
def training_processes(config: TrainConfig, state: Path) -> Iterator[None]:
    """Have the other processes of a training fit alongside while the block fits the generator as rank 0.

    Args:
        config: settings of the training; with one device nothing is started.
        state: folder of the unfinished training, which they resume from.

    Raises:
        ConfigError: torchrun started another number of processes than the config has devices.
        GeneratorError: one of the other processes failed.
    """
    if launched_rank() is not None:
        with joined_by_torchrun(config):
            yield
    elif config.devices == 1:
        yield
    else:
        with _others(config, state) as store, joined(Rank(0, config.devices), store):
            yield


@contextmanager
def joined_by_torchrun(config: TrainConfig) -> Iterator[None]:
    """Join the processes that torchrun started.

    Raises:
        ConfigError: on this machine there are not as many as the config has devices.
    """
    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if here != config.devices:
        raise ConfigError(
            f"torchrun started {here} processes here, and the config has 'devices: {config.devices}'; give both the "
            "same number."
        )
    with joined():
        yield


def fit_alongside(config: TrainConfig, state: Path) -> tuple[Zoo, list[dict[str, float]]]:
    """Fit the generator of a config as another rank than 0, which has it in the end; returns the zoo and the losses."""
    zoo = Zoo.open(config.zoo).select(splits=config.splits)
    row = row_of(config)
    assert row.fit is not None
    _, history = row.fit(config, zoo, TextEncoder.load(config.encoder), checkpoints=state)
    return zoo, history


@contextmanager
def _others(config: TrainConfig, state: Path) -> Iterator[Any]:
    """Start the ranks from 1 on; yields the store through which all find one another."""
    store = meeting_point(config.devices)
    threads = max(1, available_cores() // config.devices)
    with contextlib.ExitStack() as opened:
        others: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
        for number in range(1, config.devices):
            log = opened.enter_context(tempfile.TemporaryFile())
            job = {"rank": number, "port": store.port, "state": str(state), "config": config.model_dump(mode="json")}
            others.append((opened.enter_context(_started(job, log, threads)), log))
        with _threads(threads):
            try:
                _await(others, store)
                yield store
            except (LoragenError, KeyboardInterrupt):
                raise
            except Exception as error:
                if failure := _failure(others):
                    raise GeneratorError(failure) from error
                raise
        if failure := _failure(others):
            raise GeneratorError(failure)


@contextmanager
def _started(job: Mapping[str, Any], log: IO[bytes], threads: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process of a training, which ends with the block at the latest."""
    path = os.pathsep.join(part or os.getcwd() for part in sys.path)
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=log,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        start_new_session=True,  # Ctrl-C is for the first process
    )
    assert process.stdin is not None
    try:
        with contextlib.suppress(BrokenPipeError):  # it has failed at once, and its log says why
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_MOMENT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(others: list[tuple[subprocess.Popen[bytes], IO[bytes]]], store: Any) -> None:
    """Wait until all processes are there to be joined.

    Raises:
        GeneratorError: one ended before.
    """
    numbers = [str(number) for number in range(1, len(others) + 1)]
    while not store.check(numbers):
        if any(process.poll() is not None for process, _ in others):
            raise GeneratorError(_failure(others))
        time.sleep(0.05)


def _failure(others: list[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> str:
    """What ended one of the processes, empty where all ended well; they are given a moment to end."""
    for number, (process, log) in enumerate(others, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_MOMENT)
        if process.returncode:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            said = f": {cut(lines[-1], 400)}" if lines else ""
            how = f"signal {-process.returncode}" if process.returncode < 0 else f"status {process.returncode}"
            return (
                f"The process of device {number} ended with {how}{said}. What was trained up to the last epoch is "
                "kept; train again to go on."
            )
    return ""


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Compute with this many threads while the block runs, and tell libraries so."""
    before, variable = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(number)
    os.environ.setdefault("OMP_NUM_THREADS", str(number))
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if variable is None:
            del os.environ["OMP_NUM_THREADS"]


def main() -> None:
    """Fit a generator alongside, as the job on standard input says."""
    job = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    values = job["config"]
    config = config_type(values["generator"], Path("job")).checked(values, source="job")
    rank = Rank(job["rank"], config.devices)
    store = meeting_point(rank.world, job["port"])
    store.set(str(rank.number), "here")
    with joined(rank, store):
        fit_alongside(config, Path(job["state"]))


def _end_with_input() -> None:
    """End this process when its input closes: the first process is done with it, or gone."""
    while os.read(0, 1):
        pass
    os._exit(1)
