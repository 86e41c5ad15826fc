import json

import pytest
import torch
import typer
from command_line import widest
from models import tiny_bert, tiny_llama
from typer.testing import CliRunner

from loragen.adapters.adapter import Lora
from loragen.cli.check import check
from loragen.errors import AdapterError, ConfigError

app = typer.Typer()
app.command("check")(check)


@pytest.fixture
def bert(tmp_path):
    """A folder that holds the config of a tiny encoder, and nothing else."""
    return with_config(tiny_bert(), tmp_path / "bert")


@pytest.fixture
def llama(tmp_path):
    return with_config(tiny_llama(), tmp_path / "llama")


def with_config(model, folder):
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    return str(folder)


def write(folder, base, *sites, size=16, **options):
    Lora.from_factors(
        {site: torch.ones(8, size) for site in sites},
        {site: torch.ones(size, 8) for site in sites},
        base_model_name_or_path=base,
        **options,
    ).save(folder)
    return str(folder)


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


QUERIES = [f"model.layers.{layer}.self_attn.q_proj" for layer in (0, 1)]


def test_an_adapter_that_fits_is_said_to_and_every_server_is_judged(tmp_path, llama, bert):
    queries = [f"encoder.layer.{layer}.attention.self.query" for layer in (0, 1)]
    for base, model_class, sites, by_servers in (
        (llama, "LlamaForCausalLM", QUERIES, "yes"),
        (bert, "BertModel", queries, "no"),
    ):
        result = run(write(tmp_path / "adapter", base, *sites))
        assert result.exit_code == 0
        assert f"all 2 sites are in {model_class}, of these shapes" in result.stdout
        loads = [line.split()[:2] for line in result.stdout.splitlines() if line.startswith(("PEFT", "vLLM", "LoRAX"))]
        assert loads == [["PEFT", "yes"], ["vLLM", by_servers], ["LoRAX", by_servers]]
        assert widest(result.stdout.partition("shapes\n")[2]) <= 80


def test_an_adapter_that_does_not_fit_ends_with_status_2_and_the_way_out(tmp_path, llama):
    sites = [query.removeprefix("model.") for query in QUERIES]
    result = run(write(tmp_path / "adapter", llama, *sites, task_type="CAUSAL_LM"))
    assert result.exit_code == 2
    assert "so the prefix 'model.' is missing" in result.stderr
    assert "yes, wrongly" in result.stdout
    assert "leaves out all of its sites without an error (issue 34186)" in " ".join(result.stdout.split())


def test_json_holds_all_that_is_found(tmp_path, bert):
    folder = write(tmp_path / "adapter", bert, "encoder.layer.0.attention.self.query", size=8)
    result = run(folder, "--json")
    assert result.exit_code == 2
    found = json.loads(result.stdout)
    assert (found["adapter"], found["base"], found["base_class"], found["unchecked"]) == (
        folder,
        bert,
        "BertModel",
        None,
    )
    assert "maps 8 to 8 features" in found["faults"][0]
    assert {verdict["server"]: verdict["loads"] for verdict in found["verdicts"]} == {
        "PEFT": False,
        "vLLM": False,
        "LoRAX": False,
    }


def test_a_base_that_is_not_at_hand_is_said_and_no_fault(tmp_path):
    for base, remark in (("meta/llama", "the config of 'meta/llama' is not on this machine"), (None, "does not name")):
        result = run(write(tmp_path / "adapter", base, *QUERIES))
        assert result.exit_code == 0
        assert f"Keys and shapes were not checked: {remark}" in result.stdout.replace("the adapter does", "does")
        assert "not compared with the base" in " ".join(result.stdout.split())


def test_a_base_that_cannot_be_laid_out_is_said_unless_it_was_asked_for(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "own"}')
    folder = write(tmp_path / "adapter", str(tmp_path), *QUERIES)
    result = run(folder)
    assert result.exit_code == 0
    assert "not checked: The base" in result.stdout
    assert isinstance(run(folder, "--base", str(tmp_path)).exception, ConfigError)


def test_base_takes_the_place_of_the_one_that_is_named(tmp_path, bert, llama):
    folder = write(tmp_path / "adapter", bert, *QUERIES)
    assert run(folder).exit_code == 2
    assert run(folder, "--base", llama).exit_code == 0


def test_an_adapter_of_the_inner_model_fits_but_is_served_wrongly(tmp_path, llama):
    sites = [query.removeprefix("model.") for query in QUERIES]
    result = run(write(tmp_path / "adapter", llama, *sites), "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["base_class"], found["faults"]) == ("LlamaModel", [])
    assert [bool(verdict["problems"]) for verdict in found["verdicts"]] == [False, True, True]


def test_what_the_config_leaves_out_is_seen_in_the_file_itself(tmp_path, llama):
    folder = write(tmp_path / "adapter", llama, *QUERIES)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    vllm = json.loads(run(folder, "--json").stdout)["verdicts"][1]
    assert not vllm["loads"]
    assert "does not say lora_alpha" in vllm["problems"][0]


def test_what_is_no_adapter_is_refused(tmp_path):
    assert isinstance(run(str(tmp_path)).exception, AdapterError)


def test_an_adapter_that_does_nothing_is_at_fault_with_a_base_and_without(tmp_path, llama):
    for base in (llama, "meta/llama"):
        folder = write(tmp_path / "adapter", base, *QUERIES, scaling=0)
        result = run(folder)
        assert result.exit_code == 2
        assert "All delta weights of the adapter are zero, so that it leaves its base unchanged" in result.stderr
        assert "✓" not in result.stdout


def test_a_head_that_was_left_at_home_is_named(tmp_path, bert):
    folder = write(tmp_path / "adapter", bert, "bert.encoder.layer.0.attention.self.query", task_type="SEQ_CLS")
    found = json.loads(run(folder, "--json").stdout)
    assert (found["base_class"], found["faults"]) == ("BertForSequenceClassification", [])
    assert not found["verdicts"][0]["loads"]
    assert "KeyError 'base_model.model.classifier.weight'" in found["verdicts"][0]["problems"][0]


def test_a_folder_with_brackets_is_shown_whole(tmp_path, llama):
    result = run(write(tmp_path / "a[" / "b]c", llama, *QUERIES))
    assert result.exit_code == 0
    assert "a[/b]c" in "".join(result.stdout.split())
