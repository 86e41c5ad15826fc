"""README and docs: commands, options and links exist, examples run, the page of the library is current."""

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from command_line import run  # noqa: F401 - a fixture

from loragen.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples" / "README.md"]
README = (ROOT / "README.md").read_text()


def commands() -> dict[str, set[str]]:
    """Command → the options its help knows."""
    root = typer.main.get_command(app)
    found = {"": {option for parameter in root.params for option in parameter.opts} | {"--help"}}
    for name, command in root.commands.items():
        for path, leaf in [(name, command), *((f"{name} {n}", c) for n, c in getattr(command, "commands", {}).items())]:
            found[path] = {option for parameter in leaf.params for option in parameter.opts}
    return found


def lines_of(page: Path) -> list[str]:
    """What follows ``loragen`` in blocks of a terminal and in code between backticks."""
    text = page.read_text()
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    found = [
        line for block in blocks for line in re.findall(r"^\$ loragen (.+)$", block.replace("\\\n", ""), re.MULTILINE)
    ]
    return found + re.findall(r"`loragen ([^`|\\]+)`", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_pages_name_only_commands_and_options_that_exist(page):
    known = commands()
    for line in lines_of(page):
        words = shlex.split(line.partition(" #")[0].replace("…", ""))
        has_two = words[0] in ("zoo", "config", "base", "bench")
        name = "" if words[0].startswith("-") else " ".join(words[: 1 + has_two])
        assert name in known or f"{name} list" in known, line
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert options <= known.get(name, set()) | {"--help"}, line


def test_the_readme_shows_commands():
    assert len(lines_of(ROOT / "README.md")) > 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_says_what_loragen_is_not_in_its_first_lines():
    assert "LoRAGen and LoRA-Gen" in "\n".join(README.splitlines()[:8])


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 140


def test_the_way_from_readme_to_weights_is_three_opens():
    """Each file of the way that the README and "How it works" name links, by import, to the next."""
    way = ("loragen/generation/generate.py", "loragen/generators/registry.py", "loragen/generators/sg/model.py")
    assert all(f"]({place})" in README for place in way)
    for here, there in itertools.pairwise(way):
        assert there.removesuffix(".py").replace("/", ".") in (ROOT / here).read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_holds_a_place_of_one_machine(page):
    assert not re.search(r"/(work|home|root|tmp)/", page.read_text())


def test_the_page_of_the_library_is_what_the_docstrings_say():
    made = subprocess.run(
        [sys.executable, "docs/make_api.py", "--show"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert made == (ROOT / "docs" / "api.md").read_text(), "run `make api`"


def test_the_python_of_the_readme_runs(tmp_path):
    (block,) = re.findall(r"```python\n(import loragen\n.*?)```", README, re.DOTALL)
    made = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout == "", "the library prints nothing"
    assert list((tmp_path / "adapters").iterdir())


def test_the_tutorial_runs_from_top_to_bottom(run, tmp_path):  # noqa: F811
    """All its commands in order, in an empty folder that holds the examples, trained for a few steps alone.

    Files that it shows are written first.
    """
    shorter = {
        ("zoo", "build"): ["--set", "recipe.steps=4", "--set", "multitask.steps=4", "--set", "workers=1"],
        ("train",): ["--set", "epochs=1", "--set", "steps_per_epoch=4"],
    }
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    steps = re.findall(
        r"```(console|csv)(?: title=(\S+))?\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.S
    )
    lines = []
    for kind, name, block in steps:
        if kind != "console":
            (tmp_path / name).write_text(block)
            continue
        for line in re.findall(r"^\$ loragen (.+)$", block.replace("\\\n", ""), re.MULTILINE):
            words = shlex.split(line)
            fewer = next((more for name, more in shorter.items() if tuple(words)[: len(name)] == name), [])
            status, out, err = run(*words, *fewer)
            assert status == 0, f"{line}\n{out}{err}"
            lines.append(words[0])
    assert lines.count("zoo") >= 5
    assert {"train", "generate", "classify", "evaluate"} <= set(lines)
