"""Options that commands share, and what they check alike."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loragen.errors import ConfigError

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON alone, for scripts.")]
BaseOption = Annotated[str | None, typer.Option(help="Base model (default: the one the adapter names).")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what lies in the folder.")]


def refuse_to_replace(folders: Sequence[Path], *, force: bool) -> None:
    """Keep a command from writing over what is there.

    Raises:
        ConfigError: one of the folders exists, and ``force`` is not set.
    """
    for folder in folders:
        if folder.exists() and not force:
            raise ConfigError(f"{folder} exists already; give another --out, or --force to replace it.")


def base_name(named: str | None, given: str | None) -> str:
    """The base that the user gave, or else the one that an adapter names.

    Raises:
        ConfigError: there is neither.
    """
    name = given or named
    if name is None:
        raise ConfigError("The adapter does not name its base model; give it with --base.")
    return name
