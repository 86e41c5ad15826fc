"""Command lines: each ends with a status, and where that is not 0 with a line that says why."""

import contextlib
import io
import os
import shutil
import sys
import unicodedata

import pytest
from hypothesis import event, given, settings

from fuzz.command_lines import commands, lines, write_sandbox
from fuzz.harness import examples, outcome
from loragen.cli import app

SECONDS = 8.0
"""Some of these commands load a model, and some fit classifiers."""
LONGEST = 2_000
"""Characters of an error, with the usage that stands above it."""


@pytest.fixture(scope="module")
def sandbox(scratch):
    return write_sandbox(scratch / "sandbox")


def fresh(sandbox):
    """A copy in which commands may write, with the folders above it empty of all else."""
    place = sandbox.parent / "place"
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(sandbox, place / "above" / "here")


def call(words):
    """Run a command line in this process: its status, and what it printed on both streams."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=how) for how in ("strict", "backslashreplace"))
    before = sys.argv, sys.stdin
    sys.argv, sys.stdin = ["loragen", *words], io.StringIO("a line\nanother line\n")
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            app.main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.stdin = before
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())
    return status, *texts


@settings(max_examples=examples("heavy"))
@given(words=lines(commands()))
def test_command_lines_end_in_a_status_and_a_line(words, sandbox):
    here = fresh(sandbox)
    before = os.getcwd()
    os.chdir(here)
    try:
        status, out, err = outcome("command lines", lambda: call(words), seconds=SECONDS)
    finally:
        os.chdir(before)
    event(f"status {status}")
    assert status in (0, 1, 2, 130), status
    assert "Traceback" not in out + err
    if status:
        assert len(err) <= LONGEST, f"{len(err)} characters on standard error"
        assert "rror" in err or ("--json" in words and out), "no reason is given"
    strange = {letter for letter in out + err if unicodedata.category(letter) in ("Cc", "Cs")} - {"\n"}
    assert not strange, "control characters on the screen"
    assert [path.name for path in here.parent.iterdir()] == ["here"], "something was written beside the folder"
    assert {"base", "zoo"} <= {path.name for path in here.iterdir()}
    assert not list(here.rglob("*.partial"))
    assert not list(here.rglob(".*.retired"))
