"""`loragen recover`: an adapter of a pruned base becomes one of the full base."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import ForceOption, JsonOption


def recover(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder, trained on a pruned base.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the adapter of the full base.")],
    index_map: Annotated[
        Path | None,
        typer.Option("--map", help="Index map, or its folder (default: beside the adapter, or in its base's folder)."),
    ] = None,
    base: Annotated[str | None, typer.Option(help="The full base (default: the one the map names).")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make an adapter that was trained on a pruned base one of the full base."""
    import loragen
    from loragen.cli import console
    from loragen.files import refuse_to_replace

    pruned = loragen.Adapter.load(adapter).base
    refuse_to_replace([out], force=force, read=(adapter, index_map, base, pruned))
    recovered = loragen.recover(adapter, index_map=index_map, base=base)
    refuse_to_replace([out], force=force, read=(recovered.base,))
    written = recovered.save(out, force=force)
    if as_json:
        facts = {"norm": round(written.norm, 6), "sites": written.sites, "r": written.r}
        notes = {"notes": recovered.notes} if recovered.notes else {}
        console.say_json({"folder": str(out), "base": recovered.base} | facts | notes)
        return
    for note in recovered.notes:
        console.warn(note)
    console.done(
        f"{out}: rank {written.r} at {written.sites} sites of {recovered.base}; verified on disk; update norm "
        f"{written.norm:.2f}"
    )
