import json
from pathlib import Path

import command_line
import pytest
from command_line import write_adapter

gguf = pytest.importorskip("gguf", reason="GGUF files need the package gguf")
run = command_line.run


@pytest.fixture
def adapter(tmp_path):
    """A random adapter for the embedded base."""
    return write_adapter(tmp_path / "random", "sentence-transformers/all-MiniLM-L6-v2", size=384)


def test_export_writes_a_lora_file_for_the_embedded_base(run, adapter) -> None:
    said = run("export", adapter, "--to", "gguf", "--out", "mine.gguf")
    assert said.status == 0, said.err
    assert "sites of a bert model in f32; llama-server -m BASE.gguf --lora mine.gguf" in said.words
    assert gguf.GGUFReader("mine.gguf").fields["general.architecture"].contents() == "bert"
    again = run("export", adapter, "--to", "gguf", "--out", "mine.gguf")
    assert (again.status, "--force" in again.err) == (2, True)
    facts = json.loads(run("export", adapter, "--to", "gguf", "--out", "mine.gguf", "--force", "--json").out)
    assert facts["file"] == "mine.gguf"
    assert facts["architecture"] == "bert"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "tflite", "--out", "x.gguf"), "gguf-model: base and adapter"),
        (("--to", "gguf", "--out", "x.txt"), "does not end in .gguf"),
        (("--to", "gguf-model", "--out", "x.gguf"), "loragen merge"),
        (("--to", "gguf", "--out", "x.gguf", "--base-gguf", "none.gguf"), "no file none.gguf"),
    ],
)
def test_mistakes_are_one_line(run, adapter, options, message) -> None:
    said = run("export", adapter, *options)
    assert said.status == 2
    assert message in " ".join(said.err.split())
    assert not list(Path.cwd().glob("*.gguf"))


def test_the_help_names_every_target(run) -> None:
    from loragen.exporters.targets import TARGETS

    said = run("export", "--help").words
    assert all(f"{target.name}:" in said for target in TARGETS)
