"""Options that commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loragen.errors import ConfigError, shown

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON alone, for scripts.")]
BaseOption = Annotated[str | None, typer.Option(help="Base model (default: the one the adapter names).")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what lies in the folder.")]
ZooOption = Annotated[Path | None, typer.Option("--zoo", help="Folder of a zoo (default: the bundled zoo).")]
LicenceOption = Annotated[
    list[str] | None,
    typer.Option("--licence", "--license", help="Only experts whose data has this licence; repeat for several."),
]
EncoderOption = Annotated[str, typer.Option("--encoder", help="Text encoder for descriptions.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the config: key.sub=value.")]
LabelsOption = Annotated[
    str | None, typer.Option(help="Label names, separated by commas (default: those on the adapter's card).")
]

MOST_SAMPLES = 1_000
"""Adapters that one command draws."""
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def label_names(labels: str | None) -> list[str] | None:
    """Label names from a list separated by commas; `None` where nothing was given.

    Raises:
        ConfigError: fewer than two different names are given.
    """
    if labels is None:
        return None
    names = [name.strip() for name in labels.split(",") if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ConfigError(f"--labels {shown(labels)} gives {len(names)} names; at least two different ones are wanted.")
    return names


def numbers(values: str, option: str) -> list[float]:
    """Numbers from a list separated by commas.

    Raises:
        ConfigError: one of them is none.
    """
    try:
        return [float(value) for value in values.split(",")]
    except ValueError:
        raise ConfigError(f"{option} {shown(values)} is no list of numbers; give them as in {option} .6,.4") from None


def one_each(values: list[str] | None, sources: Sequence[object], option: str) -> list[str | None]:
    """A value for each source, or none for all.

    Raises:
        ConfigError: values are given for some only.
    """
    if values is None:
        return [None] * len(sources)
    if len(values) != len(sources):
        raise ConfigError(
            f"{option} was given {len(values)} times for {len(sources)} adapters; give it once for each, in order."
        )
    return list(values)
