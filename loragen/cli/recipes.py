"""`loragen recipes`: how experts can be trained, and the options of each recipe."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from loragen.cli.options import JsonOption
from loragen.errors import ConfigError, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loragen.recipes.listing import RecipeInfo, RecipeOption


def recipes(
    name: Annotated[str | None, typer.Argument(help="One recipe, to see its options.")] = None,
    with_common: Annotated[bool, typer.Option("--all", help="Show the options that all recipes have, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that experts are trained by, or the options of one."""
    import loragen
    from loragen.cli import console

    known = loragen.list_recipes()
    if name is not None and name not in {one.name for one in known}:
        raise ConfigError(f"There is no recipe {shown(name)}; choose one of {', '.join(one.name for one in known)}.")
    chosen = [one for one in known if name in (None, one.name)]
    if as_json:
        console.say_json([asdict(one) for one in chosen] if name is None else asdict(chosen[0]))
    elif name is None:
        console.table(
            "Recipes for the training of experts",
            ("recipe", "axis", "about", "source"),
            [(one.name, one.axis, one.about, one.source) for one in known],
        )
        console.say("", "Its options:  loragen recipes NAME")
    else:
        _show(chosen[0], with_common=with_common)


def _show(recipe: "RecipeInfo", *, with_common: bool) -> None:
    from loragen.cli import console

    console.say(f"{recipe.name} ({recipe.axis}, arXiv {recipe.source})", recipe.about)
    if recipe.keeps_frame:
        console.say("It keeps the zoo's A as it is, so its experts share one.")
    if recipe.makes_start:
        console.say("It begins at factors of its own: in a zoo's config give 'start: zero' and 'frame: random'.")
    console.say("")
    own = [option for option in recipe.options if not option.is_common]
    if own:
        _table("Options", own)
    else:
        console.say("It has no options of its own.")
    if with_common:
        console.say("")
        _table("Options of all recipes", [option for option in recipe.options if option.is_common])
    else:
        console.say("", f"Those of all recipes too:  loragen recipes {recipe.name} --all")


def _table(title: str, options: "Sequence[RecipeOption]") -> None:
    from loragen.cli import console

    console.table(
        title,
        ("option", "type", "default", "about"),
        [(one.name, one.type, json.dumps(one.default, ensure_ascii=False), one.doc) for one in options],
    )
