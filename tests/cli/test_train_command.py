import json
import shutil
from pathlib import Path

import command_line
import pytest
import torch

from loragen.adapters.adapter import Lora

run = command_line.run


def test_train_and_generate_end_to_end(run, tiny_zoo, tmp_path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(tiny_zoo.root, zoo)
    config = tmp_path / "sg.yaml"
    config.write_text(
        f"generator: sg\nzoo: {zoo}\nencoder: all-MiniLM-L6-v2\nout: {zoo}/generators/sg\nsteps_per_epoch: 5\n"
    )
    ask = ("train", config, "--set", "epochs=2", "--set", "sg.components=4")
    trained = run(*ask, "--json")
    assert trained.status == 0, trained.err
    assert json.loads(trained.out)["losses"].keys() == {"loss", "reconstruction", "kl"}
    assert trained.err.splitlines()[-1] == "training steps: 10 of 10"
    refused = run(*ask)
    assert refused.status == 2
    assert "--force" in refused.err
    said = run(*ask, "--force")
    assert f"✓ {zoo}/generators/sg: 7 experts; at the end loss" in said.out
    made = json.loads(run("generate", "Mail.", "--zoo", zoo, "--samples", 2, "--json").out)
    first, second = (Lora.load(Path(row["folder"])) for row in made)
    assert not torch.equal(first.delta_weight(first.sites[0]), second.delta_weight(second.sites[0]))
    # Other experts than those it was trained on: refused, not silently wrong.
    shutil.rmtree(zoo / "experts" / "mood")
    stale = run("generate", "Mail.", "--zoo", zoo, "--out", "stale")
    assert stale.status == 2
    assert "trained on other experts" in stale.err


def test_icm_is_trained_on_texts_and_reads_examples(run, toys, tmp_path) -> None:
    zoo = tmp_path / "zoo"
    shutil.copytree(toys / "zoo", zoo)
    config = tmp_path / "icm.yaml"
    config.write_text(
        f"generator: icm\nzoo: {zoo}\nencoder: {toys}/base\nout: {zoo}/generators/icm\ntasks: {toys}/tasks.yaml\n"
        f"reading_model: {toys}/base\nicm: {{channels: [4], components: 4}}\n"
        "epochs: 1\nsteps_per_epoch: 2\nbatch_size: 8\n"
    )
    assert run("train", config, "--json").status == 0
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "soup", "label": "yes"}\n{"text": "tea", "label": "no"}\n')
    ask = ("generate", "Mail.", "--generator", "icm", "--zoo", zoo, "--encoder", toys / "base", "--json")
    (told,) = json.loads(run(*ask, "--examples", data, "--out", "told").out)
    (plain,) = json.loads(run(*ask, "--out", "plain").out)
    assert (told["examples"], plain["examples"]) == (2, 0)
    assert "and 2 examples of the task" in Path("told/README.md").read_text()
    one, other = (Lora.load(Path(name)) for name in ("told", "plain"))
    assert not torch.equal(one.delta_weight(one.sites[0]), other.delta_weight(other.sites[0]))


@pytest.mark.parametrize("fault", ["epoch: 3", "epochs: none", "sg: {top_k: 0}"])
def test_train_names_the_fault_of_a_config(run, tmp_path, fault) -> None:
    config = tmp_path / "sg.yaml"
    config.write_text(f"generator: sg\nzoo: z\nencoder: e\nout: o\n{fault}\n")
    result = run("train", config)
    assert result.status == 2
    assert fault.split(":")[0] in result.err
