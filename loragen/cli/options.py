"""Options that commands share."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from loragen.errors import ConfigError, shown

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON alone, for scripts.")]
BaseOption = Annotated[str | None, typer.Option(help="Base model (default: the one the adapter names).")]
WithoutHeadOption = Annotated[
    bool,
    typer.Option("--without-head", help="Read adapters of classifiers without their heads, as FEATURE_EXTRACTION."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace what lies in the folder.")]
ZooOption = Annotated[Path | None, typer.Option("--zoo", help="Folder or name of a zoo (default: minilm, bundled).")]
OwnZooOption = Annotated[Path, typer.Option("--zoo", help="Folder of the zoo, or the name of one.")]
LicenceOption = Annotated[
    list[str] | None,
    typer.Option("--licence", "--license", help="Only experts whose data has this licence; repeat for several."),
]
EncoderOption = Annotated[str, typer.Option("--encoder", help="Text encoder for descriptions.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="Override a value of the config: key.sub=value.")]
LabelsOption = Annotated[
    str | None, typer.Option(help="Label names, separated by commas (default: those on the adapter's card).")
]
LabelOption = Annotated[
    list[str] | None, typer.Option("--label", help="One label name, which may hold commas; repeat for each.")
]
LabelsFileOption = Annotated[Path | None, typer.Option(help="A text file (.txt) of label names, one a line.")]
TextColumnOption = Annotated[str | None, typer.Option(help="Column of the file that holds the texts (default: text).")]
LabelColumnOption = Annotated[
    str | None, typer.Option(help="Column of the file that holds the labels (default: label).")
]

STDIN = Path("-")
"""In place of a file: lines of standard input."""
MOST_SAMPLES = 1_000
"""Adapters that one command draws."""
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def label_names(labels: str | None, each: Sequence[str] | None = None, file: Path | None = None) -> list[str] | None:
    """Label names from a list separated by commas, from options of one name each, or from a file of one a line.

    Returns:
        The names without blanks around them; `None` where nothing was given.

    Raises:
        ConfigError: fewer than two different names are given, or names in more than one way.
        TaskError: the file cannot be read.
    """
    given = {"--labels": labels, "--label": each, "--labels-file": file}
    options = [option for option, value in given.items() if value]
    if not options and labels is None:
        return None
    if len(options) > 1:
        raise ConfigError(f"{' and '.join(options)} both name labels; give them in one way.")
    if file is not None:
        if file.suffix.lower() != ".txt":
            raise ConfigError(f"--labels-file {file} is no .txt file; write the label names into one, one a line.")
        import loragen

        names = [*loragen.Examples.from_file(file).texts]
    else:
        names = list(each) if each else (labels or "").split(",")
    names = [name.strip() for name in names if name.strip()]
    if len(names) < 2 or len(set(names)) < len(names):
        value = shown(labels if each is None and file is None else file or names)
        raise ConfigError(
            f"{options[0] if options else '--labels'} {value} gives {len(names)} names; at least two different ones are"
            " wanted."
        )
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
