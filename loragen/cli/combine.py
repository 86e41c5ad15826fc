"""`loragen combine`: several adapters become one, or one gets a lower rank."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import BaseOption, ForceOption, JsonOption, WithoutHeadOption, numbers

LOW_ENERGY = 0.9
"""Share of the merge's energy below which the merge is not called good."""


def combine(
    adapters: Annotated[
        list[Path], typer.Argument(help="Adapter folders for one base, at least one.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the merged adapter.")],
    weights: Annotated[
        str | None, typer.Option(help="A weight an adapter, separated by commas (default: equal shares).")
    ] = None,
    method: Annotated[str, typer.Option(help="sum, ties or dare.")] = "sum",
    density: Annotated[
        float | None, typer.Option(help="Share of entries that ties and dare keep of each adapter (default: 0.2).")
    ] = None,
    scale: Annotated[float, typer.Option(help="Factor of the whole merge.")] = 1.0,
    rank: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest rank of a site (default: what an exact sum takes; ties, dare: the largest among adapters).",
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(help="In place of --rank: at each site the smallest that keeps this share of its squared norm."),
    ] = None,
    seed: Annotated[int, typer.Option(help="What dare drops; same seed, same bytes.")] = 0,
    base: BaseOption = None,
    without_head: WithoutHeadOption = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge adapters of one base into one adapter, on delta weights: any ranks and scalings go together.

    One adapter alone is squeezed to a --rank or an --energy, with the least loss; with neither, it is written anew.
    """
    shares = None if weights is None else numbers(weights, "--weights")
    import loragen
    from loragen.cli import console
    from loragen.files import refuse_to_replace

    refuse_to_replace([out], force=force, read=(*adapters, base))
    merged = loragen.combine(
        adapters,
        shares,
        method=method,
        rank=rank,
        energy=energy,
        density=density,
        scale=scale,
        seed=seed,
        base=base,
        without_head=without_head,
    )
    written = merged.adapter.save(out, force=force)
    if as_json:
        facts = {"norm": round(written.norm, 6), "sites": written.sites, "r": written.r}
        notes = {"notes": merged.adapter.notes} if merged.adapter.notes else {}
        told = {"folder": str(out), "method": method, "weights": shares or [1 / len(adapters)] * len(adapters)}
        console.say_json(told | facts | {"energy_kept": round(merged.energy_kept, 6)} | notes)
        return
    for note in merged.adapter.notes:
        console.warn(note)
    whole = "merge" if len(adapters) > 1 else "adapter"
    held = f"rank {written.r} at {written.sites} sites holds {merged.energy_kept:.1%} of the {whole}'s energy"
    if energy is not None:
        held = held.replace("rank", "a rank of up to", 1)
    if merged.energy_kept >= LOW_ENERGY or energy is not None:  # so much was asked for
        console.done(f"{out}: {held}; verified on disk; update norm {written.norm:.2f}")
        return
    lost, exact = ("it", "none") if method == "sum" else (f"what {method} makes", "--method sum")
    console.warn(
        f"{out}: {held}, so most of {lost} is lost; give a larger --rank, or {exact}, which is exact."
        if merged.energy_kept < 0.5
        else f"{out}: {held}; a larger --rank keeps more."
    )
