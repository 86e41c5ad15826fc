import pytest

from loragen.bench.cells import Part
from loragen.bench.config import RecipeBenchConfig
from loragen.errors import ConfigError

VALUES = {
    "base": "b",
    "tasks": "t.yaml",
    "ids": ["one"],
    "common": {"steps": 7, "r": 2},
    "recipes": ["lora", {"name": "lora_both", "r": 3}],
    "learning_rates": [0.001, 0.003, 0.01, 0.03],
    "out": "o",
}


def config(**changes) -> RecipeBenchConfig:
    return RecipeBenchConfig.checked({**VALUES, **changes}, source="here")


def test_common_settings_are_every_recipe_s_unless_its_own_say_otherwise():
    lora, both = config().recipes
    assert (lora.name, lora.steps, lora.r) == ("lora", 7, 2)
    assert (both.name, both.steps, both.r) == ("lora_both", 7, 3)


def test_a_config_survives_yaml():
    made = config()
    again = RecipeBenchConfig.model_validate(made.model_dump(mode="json"))
    assert again == made
    assert [type(one) for one in again.recipes] == [type(one) for one in made.recipes]


def test_recipes_of_one_name_are_told_apart_by_what_differs():
    recipes = ["lora", *({"name": "lora_both", "scaling": scaling} for scaling in (1.0, 2.0))]
    made = config(recipes=recipes)
    assert list(made.labelled) == ["lora", "lora_both scaling=1.0", "lora_both scaling=2.0"]
    assert made.reference == "lora_both scaling=1.0"
    assert config(recipes=["lora"]).reference == "lora"
    nested = [{"name": "peft", "peft": {"init_lora_weights": start}} for start in ("pissa", "olora")]
    labels = ["peft peft.init_lora_weights=pissa", "peft peft.init_lora_weights=olora"]
    assert list(config(recipes=nested).labelled) == labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rates": [0.01, 0.1]}, "at least 3 items"),
        ({"learning_rates": [0.1, 0.01, 0.001]}, "in rising order"),
        ({"learning_rates": [0.1, 0.2, 0.3]}, "evenly spaced on a logarithmic scale"),
        ({"recipes": ["lora", "lora"]}, "'lora' stands there more than once"),
        ({"recipes": ["lora_x"]}, "recipes.0: Value error, there is no recipe 'lora_x'"),
        ({"recipes": [{"name": "lora", "scaling": 1.0}]}, "recipes.0.*scaling"),
        ({"recipes": [{"name": "lora", "learning_rate": 1.0}]}, "'learning_rate' of a recipe comes from"),
        ({"common": {"seed": 1}}, "'seed' of a recipe comes from 'seeds' here"),
        ({"recipes": ["lora", {"name": "lora_both", "objective": "causal_lm"}]}, "different objectives"),
        ({"ids": ["one", "one"]}, "each once"),
        ({"ids": []}, "at least 1 item"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_parts_of_the_work():
    assert Part.parse("2/3") == Part(2, 3)
    for text in ("0/2", "3/2", "1", "a/b", "1/99999", "-1/2", ""):
        with pytest.raises(ConfigError, match="wanted a number and how many, such as 1/2"):
            Part.parse(text)
