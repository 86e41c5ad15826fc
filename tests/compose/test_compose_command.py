"""`loragen compose`, and the commands that take what it makes."""

import json

import command_line
import pytest
import yaml
from models import word_task

run = command_line.run


@pytest.fixture(scope="module")
def place(base, tmp_path_factory):
    """Two experts, ``cups`` and ``meals``, and labelled texts of their tasks."""
    folder = tmp_path_factory.mktemp("command")
    for seed, (name, words) in enumerate({"cups": ("tea", "warm"), "meals": ("bread", "soup")}.items()):
        command_line.write_adapter(folder / name, base.name, seed=seed)
        (folder / name / "card.yaml").write_text(f"labels: [{', '.join(words)}]\ndescription: Which of {words}?\n")
        word_task(folder, name, words=words, train=40)
    return folder


@pytest.fixture
def compose(run, place):
    """Compose the two experts into ``out``."""
    experts = f"{place / 'cups'},{place / 'meals'}"
    return lambda method, *more: run("compose", "--experts", experts, "--method", method, "--out", "out", *more)


def test_the_methods_are_listed(run):
    told = json.loads(run("compose", "--list", "--json").out)
    assert [one["name"] for one in told] == [
        *("uniform", "description", "arrow", "mora", "smora", "brainstacks", "sema_router")
    ]
    assert {one["name"]: one["kind"] for one in told}["description"] == "static"
    mora = next(one for one in told if one["name"] == "mora")
    assert {"name": "k", "type": "int", "default": 16}.items() <= next(
        o for o in mora["options"] if o["name"] == "k"
    ).items()
    assert all(option["doc"] for one in told for option in one["options"] if option["name"] not in OBVIOUS)
    assert "sema_router" in run("compose", "--list").out


OBVIOUS = {"steps", "learning_rate", "batch_size", "epochs", "margin_weight", "boost_steps", "boost_learning_rate"}


@pytest.mark.parametrize("method", ["arrow", "uniform", "sema_router"])
def test_what_is_composed_classifies(run, compose, place, method):
    data = f"{place / 'cups.train.jsonl'},{place / 'meals.train.jsonl'}"
    trained = ("--data", data, "--set", "steps=3", "--set", "batch_size=8") if method == "sema_router" else ()
    made = compose(method, *trained)
    assert made.status == 0, made.err
    assert "of 2 experts by" in made.words
    (row,) = json.loads(run("classify", "out", "warm soup", "--json").out)
    assert list(row["probabilities"]) == ["tea", "warm", "bread", "soup"]
    assert row["probability"] != row["base_probability"]


def test_a_composition_is_evaluated(run, compose, place, monkeypatch):
    compose("mora")
    monkeypatch.setattr("loragen.evaluation.own_data.default_zoo", lambda: place)  # no zoo, so no merges of one
    told = run("evaluate", "out", "--data", place / "cups.test.jsonl", "--json")
    assert told.status == 0, told.err
    rows = {row["method"]: row for row in json.loads(told.out)["rows"]}
    assert rows["this adapter"]["accuracy"] is not None
    assert {"base", "this adapter"} <= rows.keys()


def test_a_composition_is_not_adapted_nor_merged(run, compose):
    compose("mora")
    texts = [f"soup {letter}" for letter in "abcdefghijklmnopqrstuvw"]
    refused = run("classify", "out", *texts, "--labels", "soup,tea", "--adapt")
    assert refused.status == 2
    assert "dynamic composition; leave it out" in " ".join(refused.err.split())
    merged = run("merge", "out", "--out", "merged")
    assert merged.status == 2
    assert "dynamic composition" in " ".join(merged.err.split())


def test_the_manifest_holds_what_was_asked_for(compose, tmp_path):
    told = json.loads(compose("arrow", "--set", "top_k=1", "--json").out)
    assert told == {"folder": "out", "method": "arrow", "kind": "dynamic", "experts": ["cups", "meals"]}
    manifest = yaml.safe_load((tmp_path / "out" / "composition.yaml").read_text())
    assert manifest["method"] == "arrow"
    assert manifest["settings"] == {"top_k": 1, "temperature": 1.0}
    assert manifest["experts"] == ["cups", "meals"]
    assert manifest["labels"] == ["tea", "warm", "bread", "soup"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "arrow"), "give --out DIR"),
        (("--out", "out"), "Neither experts nor a task"),
        (("--out", "out", "--experts", "a,a"), "no expert 'a'"),
        (("--out", "out", "--experts", "clinc_meta,clinc_meta"), "called 'clinc_meta'"),
        (("--out", "out", "--experts", "clinc_meta", "--method", "sum"), "no method 'sum'"),
    ],
)
def test_mistakes_are_one_line(run, arguments, message):
    told = run("compose", *arguments)
    assert told.status == 2
    assert message in " ".join(told.err.split())
