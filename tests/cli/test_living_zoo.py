"""`loragen zoo add`, `remove` and `update`, and what other commands say of generators that are behind."""

import json
import sys
from io import StringIO
from pathlib import Path
from shutil import copytree, rmtree

import command_line
import pytest
from models import word_task

import loragen
from loragen.adapters.adapter import Lora
from loragen.bases.known import EMBEDDED_MODEL
from loragen.config import dump_yaml
from loragen.generators.sg.fit import SGTrainConfig
from loragen.generators.sg.model import SGConfig
from loragen.generators.train import train_generator
from loragen.zoo.changes import CHANGES
from loragen.zoo.pack import pack_zoo
from loragen.zoo.zoo import Zoo

run = command_line.run
TEXT = "Tell what a bank customer wants."


@pytest.fixture(scope="module")
def with_sg(tiny_zoo, tmp_path_factory) -> Path:
    root = copytree(tiny_zoo.root, tmp_path_factory.mktemp("living") / "zoo")
    sg = SGConfig(top_k=3, components=4, latent_size=2, hidden_size=4)
    few = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 8}
    out = root / "generators" / "sg"
    train_generator(SGTrainConfig(generator="sg", zoo=root, encoder=EMBEDDED_MODEL, out=out, sg=sg, **few))
    return root


@pytest.fixture
def copy(with_sg, tmp_path) -> Path:
    return copytree(with_sg, tmp_path / "copy")


@pytest.fixture
def letters(tiny_zoo, tmp_path) -> Path:
    """An adapter of somebody else."""
    found = tiny_zoo.adapter("mood")
    Lora(found.settings, found.lora_A, {site: -b for site, b in found.lora_B.items()}).save(tmp_path / "letters")
    return tmp_path / "letters"


@pytest.mark.parametrize("is_packed", [False, True])
def test_one_comes_one_goes_and_every_command_says_what_the_generator_has_missed(
    run, copy, letters, tmp_path, is_packed
) -> None:
    zoo = pack_zoo(copy, tmp_path / "packed").root if is_packed else copy
    added = run("zoo", "add", letters, "--zoo", zoo, "--description", "Sort letters.", "--licence", "CC0")
    assert added.status == 0, added.err
    assert f"✓ letters is an expert of {zoo}, which has 9 now\n" in added.out
    sentence = "The generator sg has not seen 1 expert (letters); bring it up to date: loragen train "
    assert f"! {sentence}{zoo}/generators/sg/run.yaml --update joint\n" in added.out
    again = run("zoo", "add", letters, "--zoo", zoo, "--description", "Sort letters.")
    assert (again.status, "already; give another name with --id" in again.err) == (2, True)
    removed = json.loads(run("zoo", "remove", "bank", "rain", "--zoo", zoo, "--yes", "--json").out)
    assert (removed["removed"], removed["experts"]) == (["bank", "rain"], 7)
    assert removed["fingerprint"] == Zoo.open(zoo).fingerprint
    missed = [{"name": "sg", "unseen": ["letters"], "gone": ["bank", "rain"], "fault": None}]
    assert removed["generators"] == missed
    checked = run("zoo", "check", "--zoo", zoo)
    assert (checked.status, checked.out.startswith("✓ 7 experts, all whole\n! The generator sg has not")) == (0, True)
    assert json.loads(run("zoo", "check", "--zoo", zoo, "--json").out)["generators"] == missed
    made = run("generate", TEXT, "--zoo", zoo, "--out", "made")
    assert made.status == 0, made.err
    assert "has not seen 1 expert (letters) and was trained on 2 experts (bank, rain) no longer in the zoo" in made.out
    (facts,) = json.loads(run("generate", TEXT, "--zoo", zoo, "--out", "two", "--json").out)
    assert (facts["behind"]["unseen"], facts["behind"]["first_gone"]) == (1, ["bank", "rain"])
    assert any("has not seen" in note for note in facts["notes"])
    assert not {"bank", "rain"} & {parent["id"] for parent in facts["parents"]}
    updated = run("zoo", "update", "--zoo", zoo)
    assert "7 experts, log and embeddings up to date\n! The generator sg has not" in updated.out
    assert updated.out.endswith("add --train.\n")
    trained = run("zoo", "update", "--zoo", zoo, "--train")
    assert "✓ the generator sg was trained again\n" in trained.out
    assert trained.err.startswith("training sg: 1 of 2")
    assert "not seen" not in trained.out
    told = json.loads(run("zoo", "update", "--zoo", zoo, "--json").out)
    up_to_date = [{"name": "sg", "unseen": [], "gone": [], "fault": None}]
    assert (told["changed"], told["trained"], told["generators"]) == (False, [], up_to_date)
    assert "not seen" not in run("generate", TEXT, "--zoo", zoo, "--out", "three").out
    assert len((zoo / CHANGES).read_text().splitlines()) == 3


def test_before_experts_are_removed_somebody_is_asked(run, copy, monkeypatch) -> None:
    nobody = run("zoo", "remove", "bank", "--zoo", copy)
    assert (nobody.status, "nobody can be asked; add --yes" in nobody.err) == (2, True)

    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for answer, status in (("\n", 2), ("n\n", 2), ("y\n", 0)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        asked = run("zoo", "remove", "bank", "card", "--zoo", copy)
        assert asked.status == status
        assert f"Remove bank, card from {copy} for good? [y/N]" in asked.err
        assert (len(Zoo.open(copy)), "Nothing was removed" in asked.err) == ((8, True) if status else (6, False))
    unknown = run("zoo", "remove", "bank", "--zoo", copy, "--yes")
    assert (unknown.status, "has no expert 'bank'" in unknown.err) == (2, True)


def test_a_task_that_is_kept_for_tests_is_not_drawn_on(run, toys, tmp_path) -> None:
    zoo = copytree(toys / "zoo", tmp_path / "zoo")
    rmtree(zoo / "embeddings", ignore_errors=True)
    loragen.Zoo.open(zoo)
    (zoo / "start.safetensors").write_bytes(start_of(zoo))
    task = word_task(tmp_path / "data", "stove", words=("tea", "warm"), train=40)
    values = {"tasks": [task.model_dump(mode="json")], "splits": {"test": ["stove"]}}
    (tmp_path / "tasks.yaml").write_text(dump_yaml(values))
    added = run("zoo", "add", "stove", "--zoo", zoo, "--tasks", "tasks.yaml", "--no-score")
    assert added.status == 0, added.err
    assert "stove is an expert of" in added.out
    assert "It is of the split test, on which generators do not draw; see --split." in added.out
    facts = json.loads(run("zoo", "remove", "stove", "--zoo", zoo, "--yes", "--json").out)
    assert facts["experts"] == 7
    again = run("zoo", "add", "stove", "--zoo", zoo, "--tasks", "tasks.yaml", "--split", "experts", "--json")
    facts = json.loads(again.out)
    assert (facts["id"], facts["split"], facts["experts"], facts["generators"]) == ("stove", "experts", 8, [])
    wrong = run("zoo", "add", "stove", "--zoo", zoo, "--tasks", "tasks.yaml", "--id", "oven")
    assert (wrong.status, "'name' is for an adapter" in wrong.err) == (2, True)


def start_of(zoo: Path) -> bytes:
    """The file of a zoo for its frame and start, from zero."""
    from safetensors.torch import save

    adapter = Zoo.open(zoo).adapter("words")
    factors = {f"{site}.lora_A": a.float() for site, a in adapter.lora_A.items()}
    return save(factors | {f"{site}.lora_B": b.float() * 0 for site, b in adapter.lora_B.items()})
