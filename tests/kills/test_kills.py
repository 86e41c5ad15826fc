"""Every command that writes: killed or failed at its file-system calls, interrupted, and run many times at once.

In the short run some calls of some commands are tried; with ``LORAGEN_FUZZ`` set many calls of all, and with its
value "all" each of them.
"""

import errno
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill_cases import cases
from killing import INTERRUPTED, TALLY, chosen, is_hidden, is_long, tree, visible

from loragen.zoo.zoo import Zoo

KILLS = {
    **{"generate": 3, "generate-force": 3, "replace-without-exchange": 4, "generate-samples": 2, "combine": 1},
    **{"generate-merge": 1, "merge": 1, "train": 2, "build": 2, "import-new": 1, "import-add": 3, "init": 3},
    **{"add": 2, "remove": 3},
    **{"classify": 1, "config-copy": 1},
}
"""Kills of a command in the short run."""
FAULTS = {"generate-force": 3, "train": 1, "build": 1, "import-add": 1, "init": 1, "classify": 1}
"""Failing calls of a command in the short run."""
CTRL_C = {"generate-force": 1, "train": 1}
SLOW = ("evaluate", "generate-samples-merge-force", "train-force", "build-folds")
ALL = (*KILLS, *SLOW)
ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO)
SIZES = {
    **{"train": (3_000, 500), "build": (2_000, 700), "merge": (20_000,), "evaluate": (900, 200)},
    **{"generate-force": (1_000,), "classify": (100,)},
}
"""Bytes at which a write is cut off: in the midst of a state, of weights, of a line of cells."""
HEAVY = ("loragen.cli.check", "rich.progress", "numpy", "torch", "yaml")
"""Modules at whose import Ctrl-C comes."""
in_long_run = pytest.mark.skipif(not is_long(), reason="left to the long run")


def commands(short: object) -> list[str]:
    """Names of commands: all of them in the long run."""
    return list(ALL) if is_long() else list(short)


# --- kills ---


@pytest.mark.parametrize("name", commands(KILLS))
def test_killed_at_any_call_nothing_is_lost_and_the_same_command_ends_as_ever(trial, name):
    tried = trial(name)
    for number in chosen(tried.calls, KILLS.get(name, 0)):
        tried.kill_at(number)


@pytest.mark.parametrize("name", list(SIZES) if is_long() else ["train"])
def test_killed_in_the_midst_of_a_write_nothing_is_lost(trial, name):
    for size in SIZES[name]:
        trial(name).cut_at(size, is_killed=True)


@in_long_run
@pytest.mark.parametrize("name", ALL)
def test_killed_at_any_moment(trial, name):
    tried, rng = trial(name), random.Random(name)
    whole = tried.run(tried.begin())["seconds"]
    for _ in range(4):
        TALLY[name] += 1
        tried.run(tried.begin(), signal=signal.SIGKILL, after=rng.random() * whole)
        tried.check_left()
        tried.check_again()


# --- disks that fail ---


@pytest.mark.parametrize("name", commands(FAULTS))
def test_a_fault_at_any_call_is_one_line_and_nothing_is_lost(trial, name):
    tried = trial(name)
    for turn, number in enumerate(chosen(tried.calls, FAULTS.get(name, 0), stride=3)):
        tried.fail_at(number, ERRORS[turn % len(ERRORS)])


@pytest.mark.parametrize("name", list(SIZES) if is_long() else ["train"])
def test_a_limit_of_the_files_sizes_is_one_line_and_nothing_is_lost(trial, name):
    for size in SIZES[name][: None if is_long() else 1]:
        trial(name).cut_at(size, is_killed=False)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="modes do not keep root from writing")
@pytest.mark.parametrize("name", ["generate", "generate-force", "train", "build", "import-add", "init", "classify"])
def test_a_folder_that_may_not_be_written_to(trial, name):
    tried = trial(name)
    here = tried.begin()
    folders = [here, *(path for path in here.rglob("*") if path.is_dir() and path.name not in ("tmp", "cache"))]
    for folder in folders:
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        made = tried.run(here)
    finally:
        for folder in folders:
            folder.chmod(stat.S_IRWXU)
    assert made["status"] == 1
    assert "Permission denied" in made["err"]
    tried.check_message(made)
    assert tree(here) == tried.old


# --- Ctrl-C ---

IMPORTS = """
import os, runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
module, sent = sys.argv.pop(1), []
def pressing(event, arguments):
    if event == "import" and arguments[0] == module and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(pressing)
runpy.run_module("loragen", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", commands(CTRL_C))
def test_ctrl_c_at_any_call(trial, name):
    tried = trial(name)
    for number in chosen(tried.calls, CTRL_C.get(name, 0), stride=3):
        tried.interrupt_at(number)


@in_long_run
@pytest.mark.parametrize("name", ALL)
def test_ctrl_c_at_any_moment(trial, name):
    tried, rng = trial(name), random.Random(name)
    whole = tried.run(tried.begin())["seconds"]
    for _ in range(4):
        TALLY[name] += 1
        # Not before it has begun: Python itself answers for that.
        tried.check_interrupted(tried.run(tried.begin(), signal=signal.SIGINT, after=0.1 + rng.random() * whole))


@pytest.mark.parametrize(
    "module", ["typer", *(["loragen.cli.check", "rich.progress", "numpy", "torch", "yaml"] if is_long() else [])]
)
def test_ctrl_c_while_modules_are_imported(tmp_path, module):
    call = [sys.executable, "-c", IMPORTS, module, "combine", "none", "--out", "out"]
    made = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path)
    assert (made.returncode, made.stderr) == (130, INTERRUPTED)


@pytest.mark.skipif(not is_long() or not Path("/proc/self/task").is_dir(), reason="left to the long run, on Linux")
@pytest.mark.parametrize("wait", [0.0, 0.3, 1.0, 3.0, 10.0])
def test_ctrl_c_with_worker_processes_that_begin(trial, shop, wait):
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


# --- many at once ---

HELD = re.compile(r"is being written by another process \(number \d+\)|exists already|would replace|which is there")


def check(made, here, *, least=1):
    """Some succeed, the others end in one line, and nothing is left."""
    for one in made:
        assert one["status"] in (0, 2), one["err"]
        if one["status"] == 2:
            assert HELD.search(one["err"]), one["err"]
            assert sum(line.startswith("error:") for line in one["err"].splitlines()) == 1
    assert sum(one["status"] == 0 for one in made) >= least
    assert not [name for name in tree(here) if is_hidden(name) and not name.startswith((".out.swp", ".hidden"))]


@pytest.mark.parametrize("name", ["generate", "generate-force"])
def test_of_eight_generates_into_one_folder_one_wins_or_one_after_the_other(trial, name):
    tried = trial(name)
    here = tried.begin()
    made = tried.server.run_all(here, *[tried.case.argv] * 8)
    check(made, here)
    if name == "generate":
        assert sum(one["status"] == 0 for one in made) == 1
    assert visible(tree(here)) == visible(tried.new), "nothing is mixed"


@pytest.mark.parametrize("name", ["train", *(["build", "evaluate"] if is_long() else [])])
def test_of_two_that_take_long_one_wins(trial, name):
    tried = trial(name)
    here = tried.begin()
    made = tried.server.run_all(here, tried.case.argv, tried.case.argv)
    check(made, here)
    assert visible(tree(here)) == visible(tried.new)


@pytest.mark.parametrize("name", ["import-new", "import-add"])
def test_of_two_imports_into_one_zoo_none_is_lost(server, shop, tmp_path, name):
    for turn in range(10 if is_long() else 1):
        here = tmp_path / str(turn)
        here.mkdir()
        if name == "import-add":
            shutil.copytree(shop / "zoo", here / "out")
        options = ("--max-loss", "1", "--zoo", "out", "--description", "Is it tea?")
        commands = [("zoo", "import", shop / source, *options) for source in ("one", "two")]
        made = server.run_all(here, *commands)
        assert [one["status"] for one in made if one["status"] not in (0, 2)] == []
        there = Zoo.open(here / "out")
        for source, one in zip(("one", "two"), made, strict=True):
            assert (source in there.cards) == (one["status"] == 0), one["err"]
        assert {fault for _, fault in there.check()} == {None}
        for command, one in zip(commands, made, strict=True):
            assert one["status"] == 0 or server.run(here, *command)["status"] == 0, "run again, it comes in"
        assert {"one", "two"} <= set(Zoo.open(here / "out").ids)


def test_a_lock_of_a_process_that_is_gone_is_broken(trial):
    tried = trial("generate")
    here = tried.begin()
    (here / ".out.lock").write_text("999999")
    assert tried.run(here)["status"] == 0
    assert visible(tree(here)) == visible(tried.new)
    tried.check_clean(tree(here))


def test_all_commands_are_tried(shop):
    assert {case.name for case in cases(shop)} == set(ALL)
