"""Executors of a build: in this process or in several, and what is left when the plug is pulled."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress

import pytest
import torch
from builds import TASKS, Step, changed, recorded, state

from loragen.errors import ZooError
from loragen.zoo import build_jobs, executors
from loragen.zoo.build import build_zoo
from loragen.zoo.executors import InProcess, Processes, choose_executor
from loragen.zoo.folds import FOLDS
from loragen.zoo.zoo import Zoo

pytest_plugins = ("build_fixtures",)


def test_one_worker_is_this_process(fresh, monkeypatch):
    monkeypatch.setattr(executors, "ProcessPoolExecutor", None)
    reports: list[Step] = []
    build_zoo(changed(fresh, workers=1), progress=recorded(reports))
    assert [(p[1], p[2]) for p in reports if p[0] == "experts"] == [(done, 3) for done in range(4)]
    assert dict(Zoo.open(fresh.out).check()) == dict.fromkeys(TASKS)
    assert executors._worker is None, "the base is given back"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("smallest", "wanted"), [(0, 3), (1_000_000, 1)])
def test_over_a_small_base_an_expert_is_trained_with_one_thread(fresh, monkeypatch, workers, smallest, wanted):
    threads, train_expert = [], build_jobs.train_expert
    monkeypatch.setattr("loragen.training.threads.SMALL_BASE", smallest)
    monkeypatch.setattr(executors, "available_cores", lambda: 3 * workers)

    def watched(*args):
        threads.append(torch.get_num_threads())
        return train_expert(*args)

    monkeypatch.setattr(build_jobs, "train_expert", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        build_zoo(changed(fresh, workers=workers, only=("weather",)))
    finally:
        torch.set_num_threads(before)
    assert threads == [wanted]


def test_no_number_of_workers_is_one_a_core(monkeypatch):
    monkeypatch.setattr(executors, "available_cores", lambda: 6)
    assert choose_executor(0) == Processes(6, 1)
    assert choose_executor(2) == Processes(2, 3)
    assert choose_executor(1) == InProcess()
    monkeypatch.setattr(executors, "available_cores", lambda: 1)
    assert choose_executor(0) == InProcess()
    assert choose_executor(4) == Processes(4, 1)


def test_a_worker_that_dies_is_reported_with_a_way_out(built_copy, monkeypatch):
    shutil.rmtree(built_copy.out / "experts" / "meals")

    def die(*_):
        raise BrokenProcessPool

    monkeypatch.setattr(build_jobs, "train_expert", die)
    with pytest.raises(ZooError, match="Build again"):
        build_zoo(built_copy)


# --- the plug is pulled ---------------------------------------------------------------------------------------------

SCRIPT = """
import signal
import sys
from pathlib import Path
from loragen.zoo.build import build_zoo
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background begins without
    build_zoo(Path(sys.argv[1]))
"""


def test_a_build_that_is_killed_leaves_whole_experts_and_no_process(fresh, tmp_path):
    (tmp_path / "build.py").write_text(SCRIPT)
    asked = changed(fresh, workers=2)
    (tmp_path / "zoo.yaml").write_text(asked.to_yaml())
    experts, deadline = fresh.out / "experts", time.monotonic() + 300
    process = subprocess.Popen(
        [sys.executable, tmp_path / "build.py", tmp_path / "zoo.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        while not list(experts.glob("[!.]*")):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.kill()
        # The pipe ends when its last holder is gone: the worker as well as its parent.
        process.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    left = state(fresh.out)
    finished = Zoo.open(fresh.out).ids
    assert finished
    assert set(dict(Zoo.open(fresh.out).check()).values()) == {None}
    build_zoo(asked)
    assert dict(Zoo.open(fresh.out).check()) == dict.fromkeys(TASKS)
    for expert in finished:
        assert all(state(fresh.out)[name] == left[name] for name in left if name.startswith(f"experts/{expert}/"))


def test_ctrl_c_does_not_wait_for_a_folds_end(folding, tmp_path):
    (tmp_path / "build.py").write_text(SCRIPT)
    asked = changed(folding, workers=2, folds={"number": 3, "steps": 1_000_000, "steps_per_checkpoint": 2})
    (tmp_path / "zoo.yaml").write_text(asked.to_yaml())
    process = subprocess.Popen(
        [sys.executable, tmp_path / "build.py", tmp_path / "zoo.yaml"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    try:
        while not list((asked.out / FOLDS).glob(".0.partial/*.ckpt")):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        shown = process.communicate(timeout=120)[0].decode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in shown
    assert list((asked.out / FOLDS).glob(".0.partial/*.ckpt")), "to go on from"
