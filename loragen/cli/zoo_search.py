"""`loragen zoo search`: the experts nearest to a task."""

from typing import Annotated

import typer

from loragen.cli.options import ENCODER, EncoderOption, JsonOption, LicenceOption, ZooOption


def zoo_search(
    description: Annotated[str, typer.Argument(help="A task, in words.")],
    top_k: Annotated[int, typer.Option(min=1, help="How many experts.")] = 8,
    all_splits: Annotated[
        bool, typer.Option("--all", help="Also experts that generators never draw on, such as those for validation.")
    ] = False,
    licence: LicenceOption = None,
    zoo: ZooOption = None,
    encoder: EncoderOption = ENCODER,
    as_json: JsonOption = False,
) -> None:
    """Find the experts whose descriptions are nearest to a task, among those that generators draw on."""
    import loragen
    from loragen.cli import console

    found = loragen.search(description, zoo, top_k=top_k, all_splits=all_splits, licences=licence, encoder=encoder)
    if as_json:
        console.say_json(
            [{"id": card.id, "similarity": round(s, 4), "description": card.description} for card, s in found]
        )
        return
    console.table(
        "Nearest experts",
        ("expert", "similarity", "description"),
        [(card.id, f"{similarity:.3f}", card.description) for card, similarity in found],
        numbers=("similarity",),
    )
