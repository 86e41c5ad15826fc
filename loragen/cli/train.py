"""`loragen train`: a generator trained on a zoo, or brought up to date with it."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import ForceOption, JsonOption, SetOption
from loragen.errors import ConfigError


def train(
    config: Annotated[Path | None, typer.Argument(help="A YAML file; `loragen config list` shows ready ones.")] = None,
    overrides: SetOption = None,
    update: Annotated[
        str | None,
        typer.Option(metavar="STRATEGY", help="Bring the generator up to date with its zoo; --strategies lists them."),
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--with", metavar="NAME=VALUE", help="An option of the strategy; repeatable.")
    ] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Generator to go on from (default: the one that is replaced).")
    ] = None,
    strategies: Annotated[bool, typer.Option("--strategies", help="List the strategies, and train nothing.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a generator on a zoo, or bring one up to date; an interrupted run goes on where it was."""
    import loragen
    from loragen.cli import console

    if strategies:
        _list(as_json=as_json)
        return
    if config is None:
        raise ConfigError("Give a config to train by; `loragen config list` shows ready ones.")
    if update is None and (options or start is not None):
        raise ConfigError("--with and --from go with --update STRATEGY.")
    with console.progress() as progress:
        if update is None:
            result = loragen.train(config, overrides or (), force=force, progress=progress)
        else:
            result = loragen.update_generator(
                config,
                update,
                options=options or (),
                start=start,
                overrides=overrides or (),
                force=force,
                progress=progress,
            )
    if result.rank:  # the first of torchrun's processes says it
        return
    if as_json:
        console.say_json({"folder": str(result.out), "losses": result.final})
        return
    losses = ", ".join(f"{name} {value:.3f}" for name, value in result.final.items())
    console.done(f"{result.out}: {len(result.experts)} experts; at the end {losses}")
    console.say(f"  curves: {result.plot}" if result.plot else "  for curves: pip install 'loragen[plot]'")


def _list(*, as_json: bool) -> None:
    from dataclasses import asdict

    import loragen
    from loragen.cli import console

    known = loragen.list_strategies()
    if as_json:
        console.say_json([asdict(one) for one in known])
        return
    console.table(
        "Strategies that bring a generator up to date",
        ("strategy", "about", "reads", "source"),
        [(one.name, one.about, one.needs, one.source) for one in known],
    )
    console.say("", "Options:  loragen train --strategies --json")
