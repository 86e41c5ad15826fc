"""Bases that are elsewhere or quantised: one line and status 2 from every command, and `--base` as the way out."""

import json
import shutil

import command_line
import pytest
from command_line import write_adapter
from models import write_tiny_encoder

run = command_line.run
ELSEWHERE = ["/elsewhere/minilm", "\\".join(("C:", "minilm")), "./models/minilm", "~/no/such/minilm/"]


@pytest.fixture
def base(tmp_path):
    return write_tiny_encoder(tmp_path / "base")


@pytest.fixture
def data(tmp_path):
    rows = [{"text": text, "label": label} for text, label in (("warm soup", "soup"), ("cold tea", "tea")) * 4]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "data.jsonl"


def commands(adapter, data):
    return {
        "classify": ("classify", adapter, "warm soup", "--labels", "soup,tea"),
        "merge": ("merge", adapter, "--out", "merged"),
        "evaluate": ("evaluate", adapter, "--data", data),
        "combine": ("combine", adapter, adapter, "--out", "both"),
        "check": ("check", adapter),
        "import": ("zoo", "import", adapter, "--zoo", "zoo", "--description", "Soup or tea?"),
    }


@pytest.mark.parametrize("command", ["classify", "merge"])
@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_base_of_another_machine_is_said_to_be_one(run, tmp_path, base, data, name, command):
    adapter = write_adapter(tmp_path / "adapter", name)
    refused = run(*commands(adapter, data)[command])
    assert refused.status == 2
    assert "looks like a path, perhaps of another machine" in " ".join(refused.err.split())
    assert "--base" in refused.err
    accepted = run(*commands(adapter, data)[command], "--base", f"{base}/")
    assert accepted.status == 0, accepted.err


@pytest.mark.parametrize("command", ["combine", "check", "import"])
def test_commands_that_need_no_weights_take_base_too(run, tmp_path, base, data, command):
    """What a wrong folder is told, and that the right one is looked into."""
    adapter = write_adapter(tmp_path / "adapter", ELSEWHERE[0])
    refused = run(*commands(adapter, data)[command], "--base", ELSEWHERE[1])
    assert refused.status == 2
    assert "looks like a path, perhaps of another machine" in " ".join(refused.err.split())
    accepted = run(*commands(adapter, data)[command], "--base", base)
    assert accepted.status == 0, accepted.err
    wrong = write_adapter(tmp_path / "wrong", ELSEWHERE[0], sites=["encoder.layer.7.attention.self.query"])
    shutil.rmtree("both", ignore_errors=True)
    misfit = run(*commands(wrong, data)[command], "--base", base)
    assert misfit.status == 2
    assert "encoder.layer.7" in misfit.err


def test_check_says_of_a_base_elsewhere_that_it_is(run, tmp_path):
    said = run("check", write_adapter(tmp_path / "adapter", ELSEWHERE[0]))
    assert said.status == 0
    assert "looks like a path, perhaps of another machine" in said.words


def test_a_quantised_base_is_one_line_from_every_command(run, tmp_path, base, data):
    config = json.loads((base / "config.json").read_text())
    quantised = config | {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (base / "config.json").write_text(json.dumps(quantised))
    adapter = write_adapter(tmp_path / "adapter", base)
    for command in ("classify", "merge", "evaluate"):
        refused = run(*commands(adapter, data)[command])
        assert refused.status == 2
        assert "is quantised ('bitsandbytes')" in " ".join(refused.err.split())
        assert "--base" in refused.err
    (base / "config.json").write_text(json.dumps(config))
    refused = run("generate", "Soup or tea?", "--out", "out", "--encoder", ELSEWHERE[0])
    assert refused.status == 2
    assert "--encoder" in refused.err
