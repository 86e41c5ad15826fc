"""`loragen base`: base models that are kept on this machine, by name."""

from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import ForceOption, JsonOption

if TYPE_CHECKING:
    from loragen.base_store.describe import BaseCard
    from loragen.base_store.listing import BaseInfo


def base_get(
    name: Annotated[
        str,
        typer.Argument(help="A name of `loragen base list`, a GGUF file, or a Hub name: ORG/NAME@REVISION."),
    ],
    name_as: Annotated[str | None, typer.Option("--name", help="Keep it under this name (default: its own).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Get it anew, and replace what is kept.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Get a base model once; afterwards every command knows it by its name, offline."""
    import loragen
    from loragen.cli import console

    with console.progress() as update:
        info = loragen.get_base(name, name_as=name_as, force=force, progress=update)
    if as_json:
        console.say_json(info.to_dict())
        return
    console.done(
        f"{info.name} is kept ({_count(info.parameters)} parameters, {_bytes(info.size)}); next: "
        f"loragen base show {info.name}"
    )


def base_list(as_json: JsonOption = False) -> None:
    """List the bases that have a name here, and those that can be got."""
    import loragen
    from loragen.cli import console

    bases = loragen.list_bases()
    if as_json:
        console.say_json([info.to_dict() for info in bases])
        return
    console.table(
        "Bases by name",
        ("base", "parameters", "on disk", "licence", "source"),
        [
            (info.name, _count(info.parameters), _bytes(info.size), info.licence or "not stated", info.source)
            for info in bases
        ],
        numbers=("parameters", "on disk"),
    )
    for info in bases:
        if info.fault:
            console.warn(info.fault)
        elif info.command:
            console.say("", f"Not here yet:  {info.command}")


def base_prune(
    base: Annotated[str, typer.Argument(help="Its name, as in `loragen base list`, a model folder or a Hub name.")],
    out: Annotated[Path, typer.Option(help="Folder for the pruned base.")],
    neurons: Annotated[float, typer.Option(help="Share of each feed-forward layer's neurons to leave out.")] = 0.25,
    heads: Annotated[float, typer.Option(help="Share of each layer's attention heads to leave out.")] = 0.0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a smaller base to train on; `loragen recover` makes its adapters adapters of the full base."""
    import loragen
    from loragen.cli import console

    pruned = loragen.prune_base(base, out, neurons=neurons, heads=heads, force=force)
    if as_json:
        console.say_json(pruned.to_dict())
        return
    kept = pruned.kept
    console.done(
        f"{out}: {kept.neurons} of {kept.all_neurons} neurons and {kept.heads} of {kept.all_heads} heads a layer, "
        f"{_count(pruned.parameters)} of {_count(pruned.all_parameters)} parameters; train on it as on any "
        "base, then `loragen recover`"
    )


def base_show(
    name: Annotated[str, typer.Argument(help="Its name, as in `loragen base list`, or a model folder.")],
    as_json: JsonOption = False,
) -> None:
    """Show the card of a base: its sizes, and the modules that a LoRA can be put on."""
    import loragen
    from loragen.cli import console

    card = loragen.describe_base(name)
    if as_json:
        console.say_json(card.to_dict())
        return
    console.say(card.info.name)
    for title, value in _rows(card):
        first, *rest = value if isinstance(value, list) else [value]
        console.say(f"{title:<15}{first}", *(f"{'':<15}{line}" for line in rest))
    if card.info.command:
        console.say("", f"Not here yet:  {card.info.command}")


def _rows(card: "BaseCard") -> list[tuple[str, object]]:
    info = card.info
    facts: list[tuple[str, object]] = [
        ("architecture", card.architecture),
        ("parameters", info.parameters and _count(info.parameters)),
        ("layers", card.layers),
        ("hidden", card.hidden),
        ("vocabulary", card.vocabulary and _count(card.vocabulary)),
        ("positions", card.positions and _count(card.positions)),
        ("chat template", {True: "yes", False: "no"}.get(card.has_chat_template)),  # type: ignore[arg-type]
        ("LoRA targets", wrap(", ".join(f"{target}\u00a0({number})" for target, number in card.targets.items()), 65)),
        ("licence", info.licence or "not stated"),
        *_origin(info),
    ]
    return [(title, value) for title, value in facts if value not in (None, "", [])]


def _origin(info: "BaseInfo") -> list[tuple[str, object]]:
    return [
        ("source", info.source),
        ("commit", info.commit),
        ("SHA-256, file", info.sha256),
        ("SHA-256, model", info.weights_hash),
        ("dtype", info.dtype),
        ("on disk", info.size and _bytes(info.size)),
        ("folder", None if info.folder is None else str(info.folder)),
    ]


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _bytes(number: int | None) -> str:
    return "" if number is None else f"{number / 1e6:,.0f} MB"
