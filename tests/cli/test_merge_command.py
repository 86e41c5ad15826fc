import json
from pathlib import Path

import command_line
import pytest
import torch
from command_line import write_adapter

from loragen.adapters.adapter import Lora

run = command_line.run


@pytest.fixture
def adapter(tmp_path):
    """A random adapter for the embedded base that visibly changes it."""
    return write_adapter(tmp_path / "random", "sentence-transformers/all-MiniLM-L6-v2", size=384)


def test_merge_writes_a_plain_model_with_the_adapted_embeddings(run, adapter) -> None:
    said = run("merge", adapter, "--out", "merged [v1]")
    assert said.out == "✓ merged [v1]: a plain model folder; transformers loads it by from_pretrained\n"
    from sentence_transformers import SentenceTransformer

    from loragen.bases.text_encoder import LabelTextEncoder

    texts = ["My card was stolen.", "What a lovely day to go sailing, is it not?"]
    merged = SentenceTransformer("merged [v1]", device="cpu").encode(texts, convert_to_tensor=True)
    base = LabelTextEncoder.load("all-MiniLM-L6-v2")
    with base.adapted(Lora.load(adapter)):
        adapted = base.encode(base.tokenize(texts, max_length=128))
    bare = base.encode(base.tokenize(texts, max_length=128))
    torch.testing.assert_close(merged, adapted, atol=1e-5, rtol=0)
    assert (merged - bare).abs().max() > 1e-2


def test_merge_names_base_and_adapter_and_replaces_nothing_unasked(run, toys) -> None:
    adapter = toys / "zoo" / "experts" / "cups"
    assert json.loads(run("merge", adapter, "--out", "merged", "--json").out) == {"folder": "merged"}
    readme = Path("merged/README.md")
    assert f"base_model: {toys / 'base'}\n" in readme.read_text()
    assert "rank\n2 at 4 sites, Frobenius norm" in readme.read_text()
    readme.write_text("mine")
    refused = run("merge", adapter, "--out", "merged")
    assert refused.status == 2
    assert "--force" in refused.err
    assert readme.read_text() == "mine"
    assert run("merge", adapter, "--out", "merged", "--force").status == 0
    assert readme.read_text() != "mine"
