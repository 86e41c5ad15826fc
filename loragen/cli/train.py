"""`loragen train`: a generator trained on a zoo."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import ForceOption, JsonOption, SetOption


def train(
    config: Annotated[Path, typer.Argument(help="A YAML file; `loragen config list` shows ready ones.")],
    overrides: SetOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a generator on a zoo; an interrupted run goes on where it was."""
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        result = loragen.train(config, overrides or (), force=force, progress=update)
    if result.rank:  # the first of torchrun's processes says it
        return
    if as_json:
        console.say_json({"folder": str(result.out), "losses": result.final})
        return
    losses = ", ".join(f"{name} {value:.3f}" for name, value in result.final.items())
    console.done(f"{result.out}: {len(result.experts)} experts; at the end {losses}")
    console.say(f"  curves: {result.plot}" if result.plot else "  for curves: pip install 'loragen[plot]'")
