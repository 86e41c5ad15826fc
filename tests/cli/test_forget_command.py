import json
import shutil

import command_line

run = command_line.run


def test_an_expert_is_forgotten_and_taken_back(run, tiny_zoo, tmp_path) -> None:
    zoo = shutil.copytree(tiny_zoo.root, tmp_path / "zoo")
    config = tmp_path / "sg.yaml"
    config.write_text(
        f"generator: sg\nzoo: {zoo}\nencoder: all-MiniLM-L6-v2\nout: {zoo}/generators/sg\nepochs: 1\n"
        "steps_per_epoch: 5\nsg: {components: 4}\n"
    )
    assert run("train", config).status == 0
    ask = ("forget", "card", "--zoo", zoo, "--encoder", "all-MiniLM-L6-v2")
    refused = run(*ask)
    assert refused.status == 2
    assert "say so with --yes" in refused.err
    kept = run(*ask, "--keep-expert")
    assert kept.status == 0, kept.err
    assert "sg has forgotten card" in kept.out
    assert "layers changed" in kept.out
    assert max(map(len, kept.out.splitlines())) < 300
    made = run("generate", "Mail.", "--zoo", zoo, "--out", "made", "--json")
    assert made.status == 0, made.err
    undone = json.loads(run("forget", "card", "--zoo", zoo, "--undo", "--json").out)
    assert undone == {"expert": "card", "generators": ["sg"]}
    gone = json.loads(run(*ask, "--yes", "--json").out)
    assert gone["removed"]
    (report,) = gone["generators"]
    assert report["generator"] == "sg"
    assert (zoo / "generators" / "sg" / "edits" / "card.safetensors").is_file()
    assert not (zoo / "experts" / "card").exists()
    again = run(*ask, "--yes")
    assert again.status == 2
    assert "has no expert" in again.err


def test_options_that_do_not_go_together_are_refused(run, tmp_path) -> None:
    for ask in (
        ("forget",),
        ("forget", "card"),
        ("forget", "card", "--adapter", tmp_path),
        ("forget", "--adapter", tmp_path, "--classes", "a"),
    ):
        refused = run(*ask)
        assert refused.status == 2
        assert "--adapter" in refused.err


def test_classes_are_forgotten(run, toys, tmp_path) -> None:
    ask = ("forget", "--adapter", toys / "zoo" / "experts" / "words", "--examples", toys / "data" / "words.train.jsonl")
    found = run(*ask, "--classes", "bread, cold", "--out", "new", "--json")
    assert found.status == 0, found.err
    told = json.loads(found.out)
    assert told["classes"] == ["bread", "cold"]
    assert told["after"]["forgotten"] < told["before"]["forgotten"]
    said = run(*ask, "--classes", "soup", "--out", "new", "--force")
    assert "the edit apart in" in said.out
    assert "attainable" in said.out
