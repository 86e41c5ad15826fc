"""`loragen compose`: several experts become one adapter, or a composition that weighs them for each input."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import ENCODER, BaseOption, EncoderOption, ForceOption, JsonOption, ZooOption
from loragen.errors import ConfigError

if TYPE_CHECKING:
    from loragen.compose.listing import MethodInfo
    from loragen.compose.making import Composing


def compose(
    experts: Annotated[
        str | None,
        typer.Option(help="Ids of a zoo's experts or adapter folders, separated by commas."),
    ] = None,
    description: Annotated[
        str | None,
        typer.Option(help="The task in words: finds the nearest experts where none are named, and weighs them."),
    ] = None,
    method: Annotated[str, typer.Option(help="How they are composed; --list shows all methods.")] = "mora",
    out: Annotated[Path | None, typer.Option(help="Folder for what is made.")] = None,
    top_k: Annotated[int, typer.Option(min=1, max=1_000, help="How many experts --description finds.")] = 4,
    data: Annotated[
        str | None,
        typer.Option(help="A file of labelled texts for each expert, in their order, separated by commas."),
    ] = None,
    tasks: Annotated[
        Path | None, typer.Option(help="In place of --data: a file of tasks, which names the experts' by their ids.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the method, as in --set k=8; repeat for several.")
    ] = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Largest rank of a site, for static methods (default: exact).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn; same seed, same bytes.")] = 0,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    base: BaseOption = None,
    show: Annotated[bool, typer.Option("--list", help="List the methods; with --json their options too.")] = False,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compose experts of one base: as one adapter, or so that each input is answered by those that suit it.

    A dynamic composition is a folder that classify, complete, evaluate and serve take like an adapter.
    """
    import loragen
    from loragen.cli import console
    from loragen.files import refuse_to_replace

    if show:
        _list(loragen.list_methods(), as_json=as_json)
        return
    if out is None:
        raise ConfigError("No folder was named to write to; give --out DIR, or --list to see the methods.")
    named = None if experts is None else [part.strip() for part in experts.split(",") if part.strip()]
    files = None if data is None else [Path(part.strip()) for part in data.split(",") if part.strip()]
    refuse_to_replace([out], force=force, read=(*(named or ()), *(files or ()), tasks, base))
    with console.progress() as update:
        made = loragen.compose_experts(
            named,
            method=method,
            description=description,
            top_k=top_k,
            data=files,
            tasks=tasks,
            settings=settings,
            zoo=zoo,
            encoder=encoder,
            base=base,
            rank=rank,
            seed=seed,
            progress=update,
        )
    made.adapter.save(out, force=force)
    _say(made, out, as_json=as_json)


def _say(made: "Composing", out: Path, *, as_json: bool) -> None:
    from loragen.cli import console

    kind = "dynamic" if made.is_dynamic else "static"
    if as_json:
        told = {"folder": str(out), "method": made.method, "kind": kind, "experts": made.experts}
        known = {"weights": made.weights, "facts": dict(made.facts), "notes": made.notes}
        console.say_json(told | {name: value for name, value in known.items() if value})
        return
    for note in made.notes:
        console.warn(note)
    shares = made.weights or ()
    names = (
        [f"{name} {share:.2f}" for name, share in zip(made.experts, shares, strict=True)] if shares else made.experts
    )
    facts = "".join(f"; {name} {value:g}" for name, value in made.facts.items())
    what = "composition" if made.is_dynamic else "adapter"
    console.done(f"{out}: a {kind} {what} of {len(made.experts)} experts by {made.method}: {', '.join(names)}{facts}")


def _list(methods: "tuple[MethodInfo, ...]", *, as_json: bool) -> None:
    from loragen.cli import console

    if as_json:
        console.say_json([asdict(one) for one in methods])
        return
    console.table(
        "Methods that compose experts",
        ("method", "kind", "needs", "about", "source"),
        [
            (one.name + (" (experimental)" if one.experimental else ""), one.kind, one.needs, one.about, one.source)
            for one in methods
        ],
    )
    console.say("", "With their options:  loragen compose --list --json")
