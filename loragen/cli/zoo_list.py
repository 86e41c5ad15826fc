"""`loragen zoo list` and `zoo show`: the experts of a zoo and their cards."""

from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import JsonOption, LicenceOption, ZooOption

if TYPE_CHECKING:
    from loragen import Zoo
    from loragen.zoo.card import Card


def zoo_list(
    licence: LicenceOption = None,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeat for several.")] = None,
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the experts of a zoo with their scores."""
    import loragen

    show_zoo(loragen.Zoo.open(zoo).select(splits=split, licences=licence), as_json=as_json)


def show_zoo(zoo: "Zoo", *, as_json: bool) -> None:
    """Print the experts of a zoo."""
    from loragen.cli import console

    if as_json:
        console.say_json(
            [card.model_dump(mode="json", exclude={"provenance": {"recipe", "held_out_losses"}}) for card in zoo]
        )
        return
    titles = zoo.score_titles()
    console.table(
        f"{zoo.manifest.name}: {len(zoo)} experts; scores of base → expert",
        ("expert", "split", *titles.values(), "licence"),
        [(card.id, card.split, *(_gain(card, score) for score in titles), card.licence) for card in zoo],
        numbers=tuple(titles.values()),
    )


def _gain(card: "Card", score: str) -> str:
    if card.before is None or card.after is None:
        return "not scored"
    values = (getattr(card.before, score, None), getattr(card.after, score, None))
    return "→".join("" if value is None else f"{value:.3f}" for value in values)


def zoo_show(
    expert: Annotated[str, typer.Argument(help="Its id, as in `loragen zoo list`.")],
    zoo: ZooOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the card of an expert."""
    import loragen
    from loragen.cli import console

    card = loragen.Zoo.open(zoo).card(expert)
    if as_json:
        console.say_json(card.model_dump(mode="json"))
        return
    console.say_text(card.to_yaml().rstrip())
