"""`loragen config`: ready configs, to read and to copy."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import JsonOption

NameArgument = Annotated[str, typer.Argument(help="Its name, as in `loragen config list`.")]


def config_list(as_json: JsonOption = False) -> None:
    """List the ready configs for zoos, training and evaluation."""
    import loragen
    from loragen.cli import console

    rows = [(name, _first_comment(loragen.config_text(name))) for name in loragen.config_names()]
    if as_json:
        console.say_json([{"name": name, "about": about} for name, about in rows])
        return
    console.table("Ready configs", ("config", "about"), rows)
    console.say("", "Copy one to change it:  loragen config copy NAME --out FILE.yaml")


def config_show(name: NameArgument) -> None:
    """Print a ready config."""
    import loragen
    from loragen.cli import console

    console.say_text(loragen.config_text(name).rstrip())


def config_copy(
    name: NameArgument,
    out: Annotated[Path, typer.Option(help="File to write, or a folder.")] = Path("."),
    as_json: JsonOption = False,
) -> None:
    """Copy a ready config, to be changed."""
    import loragen
    from loragen.cli import console

    path = loragen.copy_config(name, out)
    if as_json:
        console.say_json({"file": str(path)})
        return
    console.done(path)


def _first_comment(text: str) -> str:
    """The first sentence of the comment that a config begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")
