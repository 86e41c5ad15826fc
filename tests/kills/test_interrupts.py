"""Ctrl-C ends a command with one line and status 130, whenever it comes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import INTERRUPTED, TALLY, chosen, is_long

QUICK = {"generate-force": 2, "train": 2, "build": 1}
SLOW = ("generate-merge", "merge", "import-new", "import-add", "init", "build-folds", "classify")
IMPORTS = """
import os, runpy, signal, sys
module, sent = sys.argv.pop(1), []
def pressing(event, arguments):
    if event == "import" and arguments[0] == module and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(pressing)
runpy.run_module("loragen", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", [*QUICK, *(SLOW if is_long() else ())])
def test_at_any_call(trial, name):
    tried = trial(name)
    for number in chosen(tried.calls, QUICK.get(name, 0)):
        tried.interrupt_at(number)


@pytest.mark.skipif(not is_long(), reason="left to the long run")
@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_at_any_moment(trial, name):
    tried, rng = trial(name), random.Random(name)
    whole = tried.run(tried.begin())["seconds"]
    for _ in range(4):
        TALLY[name] += 1
        # Not before it has begun: Python itself answers for that.
        tried.check_interrupted(tried.run(tried.begin(), signal=signal.SIGINT, after=0.1 + rng.random() * whole))


@pytest.mark.parametrize(
    "module", ["typer", *(["loragen.cli.check", "rich.progress", "numpy", "torch", "yaml"] if is_long() else [])]
)
def test_while_modules_are_imported(tmp_path, module):
    call = [sys.executable, "-c", IMPORTS, module, "combine", "none", "--out", "out"]
    made = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert (made.returncode, made.stderr) == (130, INTERRUPTED)


@pytest.mark.skipif(not is_long() or not Path("/proc/self/task").is_dir(), reason="left to the long run, on Linux")
@pytest.mark.parametrize("wait", [0.0, 0.3, 1.0, 3.0, 10.0])
def test_with_worker_processes_that_begin(trial, shop, wait):
    tried = trial("build-folds")
    here = tried.begin()
    call = [sys.executable, "-m", "loragen", *tried.case.argv, "--set", "workers=2"]
    process = subprocess.Popen(call, stderr=subprocess.PIPE, stdout=subprocess.PIPE, cwd=here, start_new_session=True)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None and not children.read_text().split():
        time.sleep(0.01)
    time.sleep(wait)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert b"Traceback" not in err
    assert process.returncode in (0, 130)
    assert (process.returncode == 130) == err.decode().endswith(INTERRUPTED)
    tried.check_left()
    tried.check_again()
