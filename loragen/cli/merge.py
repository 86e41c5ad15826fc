"""`loragen merge`: base and adapter as one model folder."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import BaseOption, ForceOption, JsonOption


def merge(
    adapter: Annotated[Path, typer.Argument(help="An adapter folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the merged model.")],
    base: BaseOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge an adapter into its base: a plain model folder for transformers and sentence-transformers."""
    import loragen
    from loragen.cli import console
    from loragen.files import refuse_to_replace

    refuse_to_replace([out], force=force, read=(adapter, base))
    loaded = loragen.Adapter.load(adapter, base=base)
    loaded.merge(out, force=force)
    if as_json:
        console.say_json({"folder": str(out)} | ({"notes": loaded.notes} if loaded.notes else {}))
        return
    for note in loaded.notes:
        console.warn(note)
    console.done(f"{out}: a plain model folder; transformers loads it by from_pretrained")
