"""`loragen zoo remove`: experts that are taken out of a zoo."""

import sys
from typing import Annotated

import typer

from loragen.cli.generators import told, warn_of
from loragen.cli.options import JsonOption, OwnZooOption
from loragen.errors import ConfigError, cut


def zoo_remove(
    experts: Annotated[list[str], typer.Argument(help="Ids, as in `loragen zoo list`.", show_default=False)],
    zoo: OwnZooOption,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Take experts out of a zoo for good, in folders or packed; their weights are then gone from the disk."""
    import loragen
    from loragen.cli import console

    opened = loragen.Zoo.open(zoo)
    if not yes:
        for expert in experts:
            opened.card(expert)
        _ask(experts, str(zoo))
    with console.progress() as update:
        removed = loragen.remove_expert(experts, opened, progress=update)
    generators = loragen.list_generators(opened.root)
    if as_json:
        facts = {"removed": removed.ids, "experts": removed.left, "fingerprint": removed.fingerprint}
        console.say_json(facts | {"generators": told(generators)})
        return
    console.done(f"{_named(removed.ids)} removed from {zoo}, which has {removed.left:,} experts now")
    warn_of(generators)


def _ask(experts: list[str], zoo: str) -> None:
    """Ask at a terminal.

    Raises:
        ConfigError: the answer is no, or nobody can be asked.
    """
    if sys.stdin is None or not sys.stdin.isatty():
        raise ConfigError(f"Experts of {cut(zoo)} would be removed for good, and nobody can be asked; add --yes.")
    typer.echo(f"Remove {_named(experts)} from {zoo} for good? [y/N] ", nl=False, err=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigError("Nothing was removed.")


def _named(ids: list[str] | tuple[str, ...], most: int = 5) -> str:
    names = ", ".join(ids[:most])
    return names if len(ids) <= most else f"{names} and {len(ids) - most:,} more"
