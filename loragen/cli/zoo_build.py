"""`loragen zoo build` and `zoo init`: experts trained on one's own tasks."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import JsonOption, SetOption
from loragen.cli.zoo_list import show_zoo

if TYPE_CHECKING:
    from loragen.zoo.build_plan import BuildPlan


def zoo_build(
    config: Annotated[Path, typer.Argument(help="A YAML file; `loragen config list` shows ready ones.")],
    overrides: SetOption = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what would be trained and how long it takes, and end.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the experts of a zoo, and its folds if asked for; an interrupted build goes on where it was."""
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        zoo = loragen.build_zoo(
            config,
            overrides or (),
            progress=update,
            on_plan=None if as_json and not plan else _show_plan,
            only_plan=plan,
        )
    if zoo is not None:
        show_zoo(zoo, as_json=as_json)


def _show_plan(plan: "BuildPlan") -> None:
    from loragen.cli import console

    for line in plan.lines():
        console.say(line)


def zoo_init(
    table: Annotated[
        Path,
        typer.Argument(
            help="A table of tasks: CSV or JSONL (id, description, labels as in a|b, train, test); or labelled texts "
            "(task, text, label)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the configs, new or empty.")],
    as_json: JsonOption = False,
) -> None:
    """Write the configs of a zoo of your own from a table of tasks."""
    import loragen
    from loragen.cli import console

    written = loragen.init_zoo(table, out)
    if as_json:
        console.say_json({"files": [str(path) for path in written]})
        return
    for path in written:
        console.done(path)
    build, train = (shlex.quote(str(out / name)) for name in ("zoo.yaml", "train-sg.yaml"))
    console.say("", f"Next:  loragen zoo build {build}", f"       loragen train {train}")
