"""Cards of experts: two origins, and cards that older versions wrote."""

from pathlib import Path

import pytest

from loragen.config import read_yaml
from loragen.errors import ConfigError
from loragen.recipes.expert import ExpertRecipe
from loragen.zoo.card import Card, Imported, Trained
from loragen.zoo.zoo import default_zoo

OLD = Path(__file__).parent / "old"


def test_an_older_card_of_a_trained_expert_is_read():
    card, values = Card.from_yaml(OLD / "trained_card.yaml"), read_yaml(OLD / "trained_card.yaml")
    assert card.provenance == Trained(
        recipe=ExpertRecipe(r=4, steps=60, learning_rate=0.01),
        steps=48,
        held_out_losses={12: 1.28901, 24: 1.18036, 36: 1.1286, 48: 1.10593, 60: 1.14032},
        seconds=74.5,
        dtype="float32",
    )
    assert card.has_trajectory
    shared = ("id", "split", "description", "family", "kind", "licence", "origin", "base", "base_hash", "versions")
    assert {name: getattr(card, name) for name in shared} == {name: values[name] for name in shared}
    assert (card.labels, card.paraphrases) == (tuple(values["labels"]), tuple(values["paraphrases"]))
    assert (card.before.accuracy, card.after.knn_accuracy) == (0.228, 0.652)


def test_an_older_card_of_an_imported_expert_is_read():
    card = Card.from_yaml(OLD / "imported_card.yaml")
    assert card.provenance == Imported(r=2, lora_alpha=2.0, use_rslora=False, energy_kept=0.999999, missing=())
    assert not card.has_trajectory
    assert (card.id, card.description) == ("elsewhere", "Which shelf does the book belong on?")


@pytest.mark.parametrize("name", ["trained_card.yaml", "imported_card.yaml"])
def test_an_older_card_is_written_in_the_new_form_and_read_again(name, tmp_path):
    card = Card.from_yaml(OLD / name)
    (tmp_path / name).write_text(card.to_yaml())
    assert set(read_yaml(tmp_path / name)) == set(Card.model_fields)
    assert Card.from_yaml(tmp_path / name) == card


def test_every_card_of_the_bundled_zoo_is_read():
    paths = list((default_zoo() / "experts").glob("*/card.yaml"))
    assert len(paths) > 100
    for path in paths:
        assert Card.from_yaml(path).has_trajectory


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("steps: 48", "steps: many", r"provenance\.trained\.steps"),
        ("seconds: 74.5\n", "", r"provenance\.trained\.seconds: Field required"),
        ("dtype: float32", "dtype: float32\ncolour: red", "colour: Extra inputs"),
        ("imported: null", "imported: 3", "provenance"),
    ],
)
def test_a_damaged_older_card_is_refused(tmp_path, old, new, named):
    text = (OLD / "trained_card.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "card.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=named):
        Card.from_yaml(tmp_path / "card.yaml")


def test_an_expert_is_either_trained_or_imported():
    values = Card.from_yaml(OLD / "trained_card.yaml").model_dump(mode="json")
    values["provenance"] |= {"r": 2, "lora_alpha": 2.0}
    with pytest.raises(ConfigError, match=r"provenance\.trained\.r: Extra inputs"):
        Card.checked(values, source="test")
    del values["provenance"]
    with pytest.raises(ConfigError, match="provenance: Field required"):
        Card.checked(values, source="test")
