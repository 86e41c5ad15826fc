"""Disks that fail: one line, status 1, and the old state as it was."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import files_of, run, write_adapter  # noqa: F401 - a fixture
from models import write_tiny_encoder


@pytest.fixture
def adapter(tmp_path):
    base = write_tiny_encoder(tmp_path / "models" / "tiny")
    return write_adapter(tmp_path / "adapter", base)


@pytest.mark.parametrize("failing", ["mkdir", "write", "fsync"])
def test_a_disk_that_fails_is_one_line(run, adapter, tmp_path, monkeypatch, failing):  # noqa: F811
    assert run("combine", adapter, "--out", tmp_path / "out").status == 0
    before = files_of(tmp_path / "out")

    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device", "out")

    with monkeypatch.context() as patched:
        patched.setattr(
            {"mkdir": "tempfile.mkdtemp", "write": "pathlib.Path.write_bytes", "fsync": "os.mkdir"}[failing], full
        )
        status, _, err = run("combine", adapter, "--out", tmp_path / "out", "--force", "--scale", "2")
    assert (status, err.count("\n")) == (1, 1)
    assert "No space left on device; nothing was half written." in err
    assert files_of(tmp_path / "out") == before
    assert not list(tmp_path.glob(".out*"))


def test_the_limit_of_a_files_size_is_one_line(tmp_path):
    """``ulimit -f``: the system refuses to write on."""
    script = "import resource, signal, sys\n"
    script += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    script += "from loragen.cli.app import main; main()"
    tasks = Path(__file__).parents[2] / "examples" / "tasks.csv"
    call = [sys.executable, "-c", script, "zoo", "init", str(tasks), "--out", str(tmp_path / "out")]
    made = subprocess.run(call, capture_output=True, text=True, env=os.environ)
    assert made.returncode == 1
    assert "Traceback" not in made.stderr
    assert "File too large" in made.stderr
    assert not list((tmp_path / "out").glob("*"))


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(tmp_path):
    command = f"{sys.executable} -m loragen config list | head -1"
    made = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in made.stderr
    assert "Exception" not in made.stderr


def test_force_leaves_what_is_not_ours(run, adapter, tmp_path):  # noqa: F811
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    status, _, err = run("combine", adapter, "--out", tmp_path / "out", "--force")
    assert status == 2
    assert "holds thesis.txt, which loragen did not write and will not remove" in " ".join(err.split())
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"
