"""Command lines: every command with its own options, with values that are good, and with values that are not."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml
from command_line import write_adapter
from hypothesis import strategies as st
from models import write_tiny_encoder

from fuzz.zoos import OLD
from loragen.cli.app import app

ODD = (
    *(
        "",
        " ",
        "-",
        "--",
        "..",
        ".",
        "a/../b",
        "nowhere",
        "/proc/self/mem",
        "/dev/null",
        "/dev/null/x",
        "~nobodyatall/x",
    ),
    *(
        "-1",
        "0",
        "1",
        "2",
        "999999999999",
        "9" * 40,
        "9" * 5_000,
        "1e400",
        "nan",
        "inf",
        "-inf",
        "0x10",
        "1_0",
        "½",
        "true",
    ),
    *(
        "n" * 300,
        "a" * 20_000,
        "\u202e",
        "\x1b[31m",
        "[bold]x[/]",
        "[/]",
        "a,b",
        "a,a",
        ",",
        "a=b",
        "=",
        "a b",
        "\udc80",
    ),
    *(
        "hub:",
        "hub:a/b",
        "hub:../..",
        "hub:a/b@c",
        "{id}",
        "%s",
        "$HOME",
        "*",
        "é",
        "🍞",
        "\n",
        "a\nb",
        "\t",
        "null",
        "[1]",
    ),
)
"""Values that fit nowhere, or only where they do no harm."""
GOOD = {
    "adapter": ("adapter", "other", "generated"),
    "adapters": ("adapter", "other"),
    "sources": ("adapter", "other"),
    "target": ("adapter", "evaluate.yaml"),
    "base": ("base",),
    "zoo": ("zoo",),
    "encoder": ("base",),
    "data": ("texts.jsonl", "texts.csv", "-"),
    "examples": ("texts.jsonl", "texts.csv"),
    "history": ("texts.jsonl", "texts.csv"),
    "shares": ("1,2", "0.5,0.5"),
    "table": ("texts.csv", "tasks.csv"),
    "labels": ("yes,no", "red,green,blue"),
    "description": ("Is it?", "Sort letters to a museum."),
    "texts": ("a text", "soup and tea", "texts.jsonl", "texts.csv"),
    "prompts": ("a prompt",),
    "out": ("out", "adapter", "zoo", "out/deep", "labels.csv", "labels.jsonl"),
    "generator": ("topk", "uniform", "nearest", "mean", "ridge", "zoo/generators/sg"),
    "config": ("zoo.yaml", "train.yaml", "broken.yaml"),
    "expert": ("bank", "mood"),
    "name": ("train/sg", "a"),
    "method": ("sum", "ties", "dare"),
    "weights": ("1", ".5,.5", "1,-1"),
    "density": (".5", "1"),
    "overrides": ("seed=1", "name=other", "recipe.r=3"),
    "seed": ("0", "7", "-3"),
    "samples": ("1", "2"),
    "best_of": ("1", "2"),
    "top_k": ("1", "3"),
    "rank": ("1", "2", "16"),
    "licence": ("MIT", "CC BY 4.0"),
    "split": ("experts", "validation"),
    "scale": ("1", ".5", "-2"),
    "max_loss": ("0", "0.5", "1"),
    "max_tokens": ("1", "3"),
}
"""Values by the name of the parameter, of what `write_sandbox` writes."""
TRAINING = {"train", "zoo build"}
"""Commands that train, which takes long; they get a setting that does not fit."""


@dataclass(frozen=True)
class Command:
    """A command with its parameters."""

    words: tuple[str, ...]
    parameters: tuple[Any, ...]


def commands() -> tuple[Command, ...]:
    """All commands, from the command line itself."""
    found = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += (
            [Command((name,), tuple(command.params))]
            if inner is None
            else [Command((name, sub), tuple(leaf.params)) for sub, leaf in inner.items()]
        )
    return tuple(found)


@st.composite
def lines(draw: st.DrawFn, among: Sequence[Command]) -> list[str]:
    """The words of a command line after ``loragen``: good values but for one or two, in most."""
    command = draw(st.sampled_from(among))
    given = [each for each in command.parameters if _is_needed(each) or draw(st.integers(0, 2)) == 0]
    valued = [each.name for each in given if not getattr(each, "is_flag", False)]
    odd = set(draw(st.lists(st.sampled_from(valued), max_size=2))) if valued else set()
    arguments: list[str] = []
    for parameter in given:
        if parameter.param_type_name == "option":
            arguments.append(parameter.opts[0])
        if parameter.name in valued:
            good = GOOD.get(parameter.name, ("x",))
            arguments.append(draw(st.sampled_from(ODD if parameter.name in odd else good)))
    if " ".join(command.words) in TRAINING:
        arguments += [
            "--set",
            draw(st.sampled_from(["recipe=5", "seed=a", "of_tomorrow=1", "name=[1]", "zoo=nowhere"])),
        ]
    if draw(st.integers(0, 5)) == 0:
        place = draw(st.integers(0, len(arguments)))
        arguments.insert(place, draw(st.sampled_from([*ODD, "--help", "--json", "--force", "--of-tomorrow"])))
    return [*command.words, *arguments]


def _is_needed(parameter: Any) -> bool:
    """True for arguments, options without a default, and those that stand for what is bundled, which is large."""
    return parameter.param_type_name == "argument" or parameter.required or parameter.name in ("zoo", "encoder")


def write_sandbox(folder: Path) -> Path:
    """Write what good values name: a base, adapters of it, a zoo, tables and configs."""
    write_tiny_encoder(folder / "base")
    write_adapter(folder / "adapter", "base", seed=1)
    write_adapter(folder / "other", "base", seed=2, r=2)
    shutil.copytree(OLD / "adapter", folder / "generated")
    shutil.copytree(OLD / "zoo", folder / "zoo")
    rows = [("yes", "no")[i % 2] for i in range(12)]
    (folder / "texts.jsonl").write_text(
        "\n".join(json.dumps({"text": f"text {i}", "label": v}) for i, v in enumerate(rows))
    )
    (folder / "texts.csv").write_text("text,label\n" + "".join(f"text {i},{value}\n" for i, value in enumerate(rows)))
    (folder / "tasks.csv").write_text("id,description,labels,train\na,Yes or no?,yes|no,texts.csv\n")
    (folder / "zoo.yaml").write_text(
        yaml.safe_dump({"name": "mine", "out": "mine", "base": "base", "tasks": "tasks.yaml"})
    )
    (folder / "train.yaml").write_text(
        yaml.safe_dump({"generator": "sg", "zoo": "zoo", "encoder": "base", "out": "sg"})
    )
    (folder / "evaluate.yaml").write_text("zoo: zoo\ntasks: nowhere.yaml\nsplits: [a]\noracles: zoo\nout: runs\n")
    (folder / "broken.yaml").write_text("a: [")
    return folder
