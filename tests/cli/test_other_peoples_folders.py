"""Adapters as others bring them, on the command line."""

import json
import re
import warnings
from pathlib import Path

import command_line
import pytest
import torch
from command_line import write_adapter
from models import write_tiny_encoder
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import Lora

run = command_line.run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_encoder(tmp_path_factory.mktemp("brought") / "encoder", seed=1)


@pytest.fixture
def classifier(base, tmp_path):
    """An adapter of a classifier as PEFT writes it, head and all."""
    import transformers
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base)
        config = LoraConfig(
            r=2, lora_alpha=4, target_modules=["query"], init_lora_weights=False, task_type="SEQ_CLS"
        )  # fmt: skip
        get_peft_model(model, config).save_pretrained(tmp_path / "classifier")
    return tmp_path / "classifier"


def rename(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(path).items()}, path)


def test_combine_writes_a_classifier_without_its_head(run, base, classifier) -> None:
    refused = run("combine", classifier, "--out", "plain")
    assert refused.status == 2
    assert "--without-head" in refused.err
    made = run("combine", classifier, "--without-head", "--out", "plain")
    assert made.status == 0
    assert "without its head (classifier)" in made.words
    lora = Lora.load(Path("plain"))
    assert lora.settings.task_type == "FEATURE_EXTRACTION"
    assert lora.sites == tuple(f"encoder.layer.{i}.attention.self.query" for i in (0, 1))
    assert run("check", "plain").status == 0
    assert run("classify", "plain", "warm soup", "--labels", "soup,tea").status == 0


def test_import_takes_a_classifier_without_its_head(run, base, classifier) -> None:
    arguments = ("zoo", "import", classifier, "--zoo", "zoo", "--description", "Soup or tea?")
    refused = run(*arguments)
    assert refused.status == 2
    assert "--without-head" in refused.err
    made = run(*arguments, "--without-head", "--json")
    assert made.status == 0
    assert json.loads(made.out)["checked_against_base"]
    assert "without its head" in json.loads(made.out)["experts"][0]["notes"][0]
    assert run("zoo", "check", "--zoo", "zoo").status == 0


def test_check_shows_what_was_renamed(run, base) -> None:
    write_adapter(Path("compiled"), base)
    rename(Path("compiled"), lambda key: "_orig_mod." + re.sub(r"\.weight$", ".mine.weight", key))
    told = run("check", "compiled")
    assert told.status == 0
    assert "keys renamed: '_orig_mod' taken out (8 times), the adapter's name 'mine' taken out (8 times)" in told.words
    verdicts = {each["server"]: each for each in json.loads(run("check", "compiled", "--json").out)["verdicts"]}
    assert not verdicts["vLLM"]["loads"]
    assert "leaves out all of its sites" in verdicts["PEFT"]["problems"][0]
    assert run("combine", "compiled", "--out", "plain").status == 0
    verdicts = {each["server"]: each for each in json.loads(run("check", "plain", "--json").out)["verdicts"]}
    assert (verdicts["PEFT"]["loads"], verdicts["PEFT"]["problems"]) == (True, [])


@pytest.mark.parametrize("command", ["check", "classify", "merge", "combine", "evaluate"])
def test_several_checkpoints_are_listed_by_every_command(run, base, command) -> None:
    for steps in (500, 1000):
        write_adapter(Path(f"run/checkpoint-{steps}"), base)
    extra = {"classify": ["warm soup", "--labels", "a,b"], "merge": ["--out", "m"], "combine": ["--out", "m"]}
    told = run(command, "run", *extra.get(command, []))
    assert told.status == 2
    if command != "evaluate":  # which asks for data first
        assert "checkpoint-500, checkpoint-1000" in told.err
        assert "The newest is run/checkpoint-1000" in told.err


def test_the_only_adapter_in_a_folder_is_taken_with_its_card(run, base) -> None:
    write_adapter(Path("run/default"), base)
    Path("run/default/card.yaml").write_text("labels: [soup, tea]\n")
    told = run("classify", "run", "warm soup")
    assert told.status == 0
    assert "the adapter was taken from default in run" in told.words
    assert run("zoo", "import", "run", "--zoo", "zoo", "--description", "Soup or tea?").status == 0


def test_a_pointer_of_git_lfs_says_what_to_run(run, base) -> None:
    write_adapter(Path("mine"), base)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n"
    Path("mine/adapter_model.safetensors").write_text(pointer)
    told = run("merge", "mine", "--out", "merged")
    assert told.status == 2
    assert "run git lfs pull" in told.err
    assert told.err.count("\n") == 1
