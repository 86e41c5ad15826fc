import json
from dataclasses import replace
from typing import Literal, Optional

import command_line
from command_line import widest
from pydantic import Field

import loragen
from loragen.recipes import listing, registry
from loragen.recipes.expert import ExpertRecipe
from loragen.values import Seed

run = command_line.run


class Dummy(ExpertRecipe):
    name: str = "dummy"
    strength: float = Field(0.5, gt=0)
    """How much of it;
    a second line."""
    kind: Literal["one", "two"] = "one"
    steps: int = 7
    bare: bool = True


def register(monkeypatch) -> None:
    row = replace(registry.rows()["lora"], name="dummy", about="a recipe of a test", axis="rank", settings=Dummy)
    monkeypatch.setattr(registry, "ROWS", (*registry.ROWS, row))


def test_every_recipe_is_listed_within_80_columns(run) -> None:
    shown = run("recipes")
    assert widest(shown.out) <= 80
    assert all(row.name in shown.words and row.source in shown.words for row in registry.ROWS)
    assert "loragen recipes NAME" in shown.out


def test_a_registered_recipe_appears_in_the_list_and_with_its_options(run, monkeypatch) -> None:
    register(monkeypatch)
    assert "dummy rank a recipe of a test" in run("recipes").words
    shown = run("recipes", "dummy")
    assert widest(shown.out) <= 80
    assert "strength float 0.5 How much of it; a second line." in shown.words
    assert "kind 'one' | 'two' \"one\"" in shown.words
    assert "steps int 7" in shown.words, "a default of its own"
    assert "batch_size" not in shown.out
    assert "It keeps the zoo's A as it is" in shown.out


def test_options_of_all_recipes_are_shown_on_request(run) -> None:
    plain = run("recipes", "lora")
    assert "It has no options of its own." in plain.out
    assert "batch_size" not in plain.out
    shown = run("recipes", "lora", "--all")
    assert widest(shown.out) <= 80
    assert all(name in shown.out for name in ExpertRecipe.model_fields)
    assert "snapshots int 4 Points of the window that are kept." in shown.words


def test_json_has_all_of_it(run, monkeypatch) -> None:
    register(monkeypatch)
    listed = json.loads(run("recipes", "--json").out)
    assert [one["name"] for one in listed] == [row.name for row in registry.ROWS]
    dummy = json.loads(run("recipes", "dummy", "--json").out)
    assert dummy == listed[-1]
    assert {name: dummy[name] for name in ("axis", "source", "keeps_frame", "makes_start")} == {
        "axis": "rank",
        "source": "2106.09685",
        "keeps_frame": True,
        "makes_start": False,
    }
    options = {option["name"]: option for option in dummy["options"]}
    assert options["kind"] == {
        "name": "kind",
        "type": "'one' | 'two'",
        "default": "one",
        "doc": "",
        "is_common": False,
    }
    assert options["target_modules"]["default"] == ["query", "value"]
    assert options["held_out"]["doc"].startswith("Examples of the train file")


def test_no_recipe_of_that_name(run) -> None:
    refused = run("recipes", "nope")
    assert refused.status == 2
    assert "There is no recipe 'nope'; choose one of lora, lora_both" in refused.err


def test_every_option_of_a_recipe_s_own_has_a_doc() -> None:
    for recipe in loragen.list_recipes():
        assert [option.name for option in recipe.options if not option.is_common and not option.doc] == []


def test_types_read_as_they_would_be_written() -> None:
    types = {
        "int": int,
        "int | None": int | None,
        "str | None": Optional[str],  # noqa: UP045 - the older form
        "tuple[str, ...] | str": tuple[str, ...] | str,
        "'a' | 'b' | None": Literal["a", "b"] | None,
        "tuple[int, ...]": tuple[Seed, ...],
    }
    assert {name: listing.type_name(one) for name, one in types.items()} == {name: name for name in types}


def test_a_class_without_source_has_no_docs() -> None:
    made = type("Made", (ExpertRecipe,), {"__module__": "nowhere"})
    assert "steps" not in listing._own_docs(made)
    assert listing.field_docs(made) == listing.field_docs(ExpertRecipe)
