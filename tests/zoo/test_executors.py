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
from builds import TASKS, Step, changed, recorded, state

from loragen.errors import ZooError
from loragen.zoo import build_jobs, executors
from loragen.zoo.build import build_zoo
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
    experts, deadline = fresh.out / "experts", time.monotonic() + 120
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
        process.communicate(timeout=30)
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
    deadline = time.monotonic() + 120
    try:
        while not list((asked.out / FOLDS).glob(".0.partial/*.ckpt")):
            assert process.poll() is None, process.communicate()[0].decode()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        shown = process.communicate(timeout=60)[0].decode()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert "KeyboardInterrupt" in shown
    assert list((asked.out / FOLDS).glob(".0.partial/*.ckpt")), "to go on from"
