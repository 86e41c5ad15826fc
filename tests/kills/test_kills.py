"""Every command that writes, killed before its file-system calls and in the midst of its writes."""

import random
import signal

import pytest
from killing import TALLY, chosen, is_long

QUICK = {
    **{"generate": 4, "generate-force": 4, "replace-without-exchange": 5, "generate-samples": 3, "combine": 1},
    **{"generate-merge": 2, "merge": 1, "train": 3, "build": 3, "import-new": 2, "import-add": 4, "init": 3},
    **{"evaluate": 1, "classify": 1, "config-copy": 1},
}
"""Kills of a command in the short run."""
SLOW = ("generate-samples-merge-force", "train-force", "build-folds")
SIZES = {"train": (3_000,), "build": (700, 2_000), "merge": (20_000,), "evaluate": (900,), "generate-force": (1_000,)}
"""Bytes at which a write is cut off: in the midst of a state, of weights, of a line of cells."""


@pytest.mark.parametrize("name", [*QUICK, *(SLOW if is_long() else ())])
def test_killed_at_any_call_nothing_is_lost_and_the_same_command_ends_as_ever(trial, name):
    tried = trial(name)
    for number in chosen(tried.calls, QUICK.get(name, 0)):
        tried.kill_at(number)


@pytest.mark.parametrize("name", SIZES if is_long() else ("train", "merge"))
def test_killed_in_the_midst_of_a_write_nothing_is_lost(trial, name):
    for size in SIZES[name]:
        trial(name).cut_at(size, is_killed=True)


@pytest.mark.skipif(not is_long(), reason="left to the long run")
@pytest.mark.parametrize("name", [name for name in QUICK if name != "evaluate"])
def test_killed_at_any_moment(trial, name):
    tried, rng = trial(name), random.Random(name)
    whole = tried.run(tried.begin())["seconds"]
    for _ in range(4):
        TALLY[name] += 1
        tried.run(tried.begin(), signal=signal.SIGKILL, after=rng.random() * whole)
        tried.check_left()
        tried.check_again()
