"""`loragen combine`: several adapters become one."""

from pathlib import Path
from typing import Annotated

import typer

from loragen.cli.options import ForceOption, JsonOption, refuse_to_replace
from loragen.errors import ConfigError


def combine(
    adapters: Annotated[list[Path], typer.Argument(help="Adapter folders for one base.", show_default=False)],
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
    seed: Annotated[int, typer.Option(help="What dare drops; same seed, same bytes.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Merge adapters of one base into one adapter, on delta weights: any ranks and scalings go together."""
    shares = [1 / len(adapters)] * len(adapters) if weights is None else _numbers(weights)
    if method == "sum" and density is not None:
        raise ConfigError("--density does not apply to --method sum, which keeps every entry; give ties or dare.")
    refuse_to_replace([out], force=force)
    import torch

    from loragen.adapters.adapter import Lora
    from loragen.adapters.combine import combined
    from loragen.cli import console
    from loragen.exporters.peft_folder import write_checked

    merged = combined(
        [Lora.load(folder) for folder in adapters],
        shares,
        method=method,
        rank=rank,
        density=0.2 if density is None else density,
        scale=scale,
        rng=torch.Generator().manual_seed(seed),
    )
    written = write_checked(merged.adapter, out)
    if as_json:
        console.say_json(
            {
                "folder": str(out),
                "method": method,
                "weights": shares,
                "norm": round(written.norm, 6),
                "sites": written.sites,
                "r": written.r,
                "energy_kept": round(merged.energy_kept, 6),
            }
        )
        return
    console.say(
        f"[green]✓[/] {out}: rank {written.r} at {written.sites} sites, which holds {merged.energy_kept:.1%} of the "
        f"merge's energy; read back and not a no-op, its update has norm {written.norm:.2f}"
    )


def _numbers(weights: str) -> list[float]:
    try:
        return [float(weight) for weight in weights.split(",")]
    except ValueError:
        raise ConfigError(f"--weights {weights!r} is no list of numbers; give them as in --weights .6,.4") from None
