"""Values of options, whatever they are: status 2 and a short line, soon; and nothing that is read is ever replaced."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import files_of, run, write_adapter  # noqa: F401 - a fixture
from models import write_tiny_encoder

LONG = "x" * 10_000
GENERATE = ("generate", "Sort mail.", "--generator", "topk")
LIMIT = 30.0
"""Seconds, on a machine with much else to do."""


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("written")
    base = write_tiny_encoder(root / "models" / "tiny")
    write_adapter(root / "adapter", base)
    write_adapter(root / "other", base, seed=1)
    return root


@pytest.fixture
def adapters(written, tmp_path):
    """Two adapters of a base, all of them new."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    for name in ("adapter", "other"):
        config = tmp_path / name / "adapter_config.json"
        config.write_text(config.read_text().replace(str(written), str(tmp_path)))
    return tmp_path / "adapter", tmp_path / "other"


@pytest.fixture
def refused(run, tmp_path):  # noqa: F811
    """Run a command that must end with status 2, soon, and with little to read."""

    def call(*arguments: object) -> str:
        begun = time.monotonic()
        status, out, err = run(*arguments)
        assert status == 2, (out[-300:], err[:300])
        assert 0 < len(err) < 1300
        assert time.monotonic() - begun < LIMIT
        return " ".join(err.split())

    return call


PLACES = {
    "empty": "",
    "here": ".",
    "the root": "/",
    "above": "..",
    "up again": "adapter/..",
    "long": "x" * 300,
    "very long": LONG,
    "many folders": "x/" * 3000,
    "letters of many bytes": "é" * 150,
    "no user": "~nobody/x",
    "NUL": "a\0b",
    "a file": "file",
    "under a file": "file/under",
    "a pipe": "pipe",
    "a device": "/dev/zero",
    "a link": "link",
    "a loop": "loop",
}


@pytest.fixture
def places(tmp_path):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "link").symlink_to("adapter")


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
@pytest.mark.parametrize("place", PLACES)
def test_no_place_for_output_is_an_accident(refused, adapters, places, tmp_path, place, force):
    before = files_of(adapters[0])
    refused("combine", *adapters, "--out", PLACES[place], *force)
    refused("merge", adapters[0], "--out", PLACES[place], *force)
    refused(*GENERATE, "--out", PLACES[place], *force)
    assert files_of(adapters[0]) == before
    assert (tmp_path / "file").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} == {
        *("adapter", "other", "models", "file", "pipe", "loop", "link")
    }


def test_what_a_command_reads_is_not_replaced(refused, adapters, tmp_path):
    one, other = adapters
    before = files_of(one)
    for command in (
        ("combine", one, other, "--out", one),
        ("merge", one, "--out", one),
        ("merge", one, "--out", tmp_path / "models"),
        ("merge", one, "--base", tmp_path / "models" / "tiny", "--out", tmp_path / "models" / "tiny"),
        (*GENERATE, "--own-adapter", one, "--out", one),
    ):
        assert "which is read" in refused(*command, "--force") or "did not write" in refused(*command, "--force")
    assert files_of(one) == before
    assert (tmp_path / "models" / "tiny" / "config.json").is_file()


def test_a_zoo_that_an_import_wrote_is_not_replaced_by_what_it_gives(run, refused, adapters, tmp_path):  # noqa: F811
    assert run("zoo", "import", adapters[0], "--zoo", "zoo", "--description", "Sort mail.").status == 0
    assert "is or holds" in refused(*GENERATE, "--zoo", "zoo", "--out", "zoo", "--force")
    assert (tmp_path / "zoo" / "zoo.yaml").is_file()


@pytest.mark.parametrize("place", [name for name in PLACES if name not in ("a link", "up again")])
@pytest.mark.parametrize(
    "command",
    [
        *(("train",), ("zoo", "build"), ("evaluate",), ("check",), ("zoo", "list", "--zoo"), ("zoo", "check", "--zoo")),
        *((*GENERATE, "--zoo"), (*GENERATE, "--encoder"), ("generate", "Sort mail.", "--generator")),
        *(("config", "show"), ("merge", "--out", "new"), ("classify", "adapter", "--labels", "a,b", "--data")),
    ],
    ids=" ".join,
)
def test_no_place_to_read_from_is_an_accident(run, adapters, places, monkeypatch, command, place):  # noqa: F811
    if (command[0], place) in (("zoo", "empty"), ("generate", "empty"), ("generate", "above")):
        pytest.skip("means the current folder")
    begun = time.monotonic()
    status, out, err = run(*command, PLACES[place])
    assert status in (1, 2), out
    assert 0 < len(err) + len(out) < 1300
    assert time.monotonic() - begun < LIMIT


@pytest.mark.parametrize("seed", ["18446744073709551616", "-9223372036854775809", "9" * 400, "9" * 5000, "1.5", ""])
def test_seeds_beyond_64_bits_are_refused(refused, adapters, seed):
    refused(*GENERATE, "--seed", seed, "--out", "new")
    refused("combine", *adapters, "--method", "dare", "--seed", seed, "--out", "new")


@pytest.mark.parametrize("number", ["0", "-1", "1000000000", "9" * 5000, "nan"])
def test_numbers_of_samples_have_a_bound(refused, number):
    refused(*GENERATE, "--samples", number, "--out", "new")


def test_more_experts_and_ranks_than_there_are_mean_all(run, adapters):  # noqa: F811
    for number in ("1000000000", "9" * 400):
        assert run(*GENERATE, "--top-k", number, "--out", "new", "--force").status == 0
        assert run("combine", *adapters, "--rank", number, "--out", "sum", "--force").status == 0


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e400", LONG])
def test_numbers_are_finite(refused, adapters, number):
    for option in ("--scale", "--weights", "--density"):
        method = ("--method", "ties") if option == "--density" else ()
        refused(
            "combine", *adapters, *method, option, f"{number},1" if option == "--weights" else number, "--out", "new"
        )
    refused("zoo", "import", adapters[0], "--zoo", "new", "--description", "Sort mail.", "--max-loss", number)


@pytest.mark.parametrize("text", ["", "   ", "\x00\x01", "\u200b\u200b", "x" * 10_000_000, "\ud800"])
def test_descriptions_that_say_nothing_or_too_much_are_refused(refused, adapters, text):
    refused("generate", text, "--generator", "topk", "--out", "new")
    refused("zoo", "search", text)
    if text.strip() and text != "\x00\x01" and text != "\u200b\u200b":
        refused("zoo", "import", adapters[0], "--zoo", "new", "--description", text)


@pytest.mark.parametrize("name", ["x" * 101, "NUL", "con.txt", "lpt1"])
def test_names_that_no_folder_can_have_everywhere_are_refused(refused, adapters, name):
    command = ("zoo", "import", adapters[0], "--zoo", "new", "--description", "Sort mail.", "--id", name)
    assert "give another name with --id" in refused(*command)


@pytest.mark.parametrize(
    "command",
    [
        *((LONG,), ("zoo", LONG), ("generate", "a", f"--{LONG}"), ("config", "show", LONG), ("zoo", "show", LONG)),
        *((*GENERATE, "--licence", LONG), (*GENERATE, "--labels", LONG), ("generate", "a", "--generator", LONG)),
        *(
            (*GENERATE, "--encoder", LONG),
            (*GENERATE, "--top-k", LONG),
            ("combine", "adapter", "other", "--method", LONG),
        ),
        *(("merge", "adapter", "--base", LONG), ("train", "train.yaml", "--set", LONG)),
    ],
    ids=lambda command: " ".join(part[:12] for part in command),
)
def test_a_message_cuts_what_it_repeats(refused, adapters, tmp_path, command):
    (tmp_path / "train.yaml").write_text("generator: sg\n")
    refused(*command, *(("--out", "new") if command[0] in ("generate", "combine", "merge") else ()))


# --- output ---


def loragen(*arguments: str, shell: str = "", **environment: str) -> "subprocess.CompletedProcess[bytes]":
    call = f"{sys.executable} -m loragen {' '.join(arguments)} {shell}"
    return subprocess.run(call, shell=True, capture_output=True, env=os.environ | environment, check=False)


INIT = ("zoo", "init", str(Path(__file__).parents[2] / "examples" / "tasks.csv"))


def test_letters_that_the_terminal_lacks_are_written_as_escapes(tmp_path):
    made = loragen(*INIT, "--out", str(tmp_path / "é"), PYTHONIOENCODING="ascii:strict", COLUMNS="1000")
    assert made.returncode == 0, made.stderr
    assert b"\\u2713" in made.stdout
    assert b"\\xe9" in made.stdout


def test_json_is_json_in_every_encoding(tmp_path):
    out = tmp_path / "é"
    made = loragen(*INIT, "--out", str(out), "--json", PYTHONIOENCODING="ascii:strict")
    assert made.returncode == 0, made.stderr
    assert f"{out}/zoo.yaml" in json.loads(made.stdout)["files"]


@pytest.mark.parametrize(("shell", "status"), [(">&-", 0), (">/dev/full", 1), ("2>&-", 0)])
@pytest.mark.parametrize("option", ["", "--json"])
def test_output_that_cannot_be_written_is_one_line_at_most(shell, status, option):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    made = loragen("config", "list", option, shell=shell)
    assert made.returncode == status
    assert made.stderr.count(b"\n") == status
    assert b"Traceback" not in made.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), 1),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: 9 bytes"), 1),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), 1),
        (OSError(28, "No space left on device"), 1),
        (OSError(5, "Input/output error", "place"), 1),
        (OSError("something without a number"), 1),
        (OSError(36, "File name too long", LONG), 2),
        (PermissionError(13, "Permission denied", "place"), 2),
    ],
    ids=lambda part: str(part)[:30],
)
def test_what_fails_at_the_edge_is_one_line(run, monkeypatch, error, status):  # noqa: F811
    import loragen

    def failing() -> None:
        raise error

    monkeypatch.setattr(loragen, "config_names", failing, raising=False)
    met, _, err = run("config", "list")
    assert met == status
    assert err.startswith("error: ")
    assert len(err) < 400


def test_a_fault_of_our_own_is_not_hidden(run, monkeypatch):  # noqa: F811
    import loragen

    def failing() -> None:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr(loragen, "config_names", failing, raising=False)
    with pytest.raises(RuntimeError, match="our own"):
        run("config", "list")
