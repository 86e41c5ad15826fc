"""`loragen zoo pack`: a zoo in few bytes, for handing on."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import ForceOption, JsonOption
from loragen.cli.zoo_list import show_zoo


def zoo_pack(
    zoo: Annotated[Path, typer.Argument(help="Folder of the zoo, or the name of one.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the packed zoo.")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a zoo's experts into one file, with its generators, and without what only training needs."""
    import loragen

    show_zoo(loragen.pack_zoo(zoo, out, replace=force), as_json=as_json)
