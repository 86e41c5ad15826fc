"""Every command that writes, on a disk that is full, read-only, closed to it or broken."""

import errno
import os
import stat

import pytest
from killing import chosen, is_long, tree

FAULTS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO)
QUICK = {"generate-force": 3, "train": 2, "build": 2, "import-add": 2, "init": 1, "classify": 1, "generate-merge": 1}
"""Faults of a command in the short run."""
MORE = (
    "generate",
    "replace-without-exchange",
    "combine",
    "merge",
    "import-new",
    "evaluate",
    "config-copy",
    "build-folds",
)
SIZES = {"train": (500, 3_000), "build": (700, 2_000), "evaluate": (200, 900), "merge": (20_000,), "classify": (100,)}


@pytest.mark.parametrize("name", [*QUICK, *(MORE if is_long() else ())])
def test_a_fault_at_any_call_is_one_line_and_nothing_is_lost(trial, name):
    tried = trial(name)
    for turn, number in enumerate(chosen(tried.calls, QUICK.get(name, 0))):
        for fault in FAULTS if is_long() else (FAULTS[turn % len(FAULTS)],):
            tried.fail_at(number, fault)


@pytest.mark.parametrize("name", SIZES if is_long() else ("train", "build", "merge"))
def test_a_limit_of_the_files_sizes_is_one_line_and_nothing_is_lost(trial, name):
    for size in SIZES[name] if is_long() else SIZES[name][-1:]:
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
