"""The short way to embeddings, beside the long one through transformers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from models import tiny_bert
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.bases.bert_config import WEIGHTS, linear_sizes, read_config
from loragen.bases.hub import resolve_model
from loragen.bases.plain_bert import Bert
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, ConfigError

TEXTS = [
    "Tell what a guest of a hotel asks the front desk for.",
    "Is it",
    "Ünïcödé — “quotes”, 日本語 and emoji 🙂\tand\ntabs",
    "[MASK] [SEP] ## 3.14 don't e-mail",
    "word " * 400,
]


@pytest.fixture(scope="module")
def folder():
    return resolve_model("all-MiniLM-L6-v2")


@pytest.mark.parametrize("length", [16, 256])
def test_it_computes_what_transformers_does(folder, length):
    bert = Bert.open(folder, length)
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    batch = AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding=True, truncation=True, max_length=length, return_tensors="pt"
    )
    rows = bert.tokenizer.encode_batch(TEXTS)
    assert [row.ids for row in rows] == batch["input_ids"].tolist()
    assert [row.attention_mask for row in rows] == batch["attention_mask"].tolist()
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(bert.hidden(batch["input_ids"], mask)[mask], hidden[mask], atol=1e-5, rtol=1e-5)
    wanted = torch.stack([states[own].mean(0) for states, own in zip(hidden, mask, strict=True)])
    torch.testing.assert_close(bert.mean_pooled(TEXTS), wanted, atol=1e-5, rtol=1e-5)


def test_an_encoder_embeds_with_it_and_without_alike(folder, monkeypatch):
    short = TextEncoder.load().encode(TEXTS)
    monkeypatch.setattr(Bert, "open", lambda *_: None)
    torch.testing.assert_close(short, TextEncoder.load().encode(TEXTS), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "roberta"},
        {"hidden_act": "relu"},
        {"position_embedding_type": "relative_key"},
        {"is_decoder": True},
        {"hidden_size": ...},
        [],
        "{",
    ],
)
def test_a_model_of_another_kind_is_left_to_transformers(folder, tmp_path, change):
    copy = tmp_path / "model"
    shutil.copytree(folder, copy)
    assert Bert.open(copy, 16) is not None
    config = json.loads((copy / "config.json").read_text())
    if isinstance(change, dict):
        kept = {name: value for name, value in (config | change).items() if value is not ...}
        (copy / "config.json").write_text(json.dumps(kept))
    else:
        (copy / "config.json").write_text(change or "[]")
    assert Bert.open(copy, 16) is None


def test_its_linear_modules_are_those_that_transformers_lays_out(folder):
    laid_out = Architecture.of(str(folder), "FEATURE_EXTRACTION").linear
    sizes = linear_sizes(read_config(folder))
    assert sizes.items() <= {name: (of.out_features, of.in_features) for name, of in laid_out.items()}.items()
    assert laid_out.keys() - sizes.keys() == {"pooler.dense"}


QUERY = "encoder.layer.0.attention.self.query"


@pytest.mark.parametrize(
    ("site", "size", "options", "fault"),
    [
        (QUERY, 384, {}, None),
        ("pooler.dense", 384, {}, None),
        (QUERY, 16, {}, "16 to 16"),
        ("encoder.layer.6.attention.self.query", 384, {}, "not in BertModel"),
        (QUERY, 384, {"fan_in_fan_out": True}, "fan_in_fan_out"),
        ("embeddings.LayerNorm", 384, {}, "no linear"),
    ],
)
def test_an_adapter_is_checked_against_it_as_against_any_base(site, size, options, fault):
    adapter = Lora.from_factors(
        {site: torch.ones(2, size)},
        {site: torch.ones(size, 2)},
        base_model_name_or_path="all-MiniLM-L6-v2",
        task_type="FEATURE_EXTRACTION",
        **options,
    )
    if fault is None:
        Architecture.check_at_hand("all-MiniLM-L6-v2", adapter)
    else:
        with pytest.raises(AdapterError, match=fault):
            Architecture.check_at_hand("all-MiniLM-L6-v2", adapter)


def test_a_damaged_config_is_an_error_that_names_the_base(tmp_path):
    (tmp_path / "config.json").write_text("{")
    sites = {QUERY: torch.ones(2, 16)}, {QUERY: torch.ones(16, 2)}
    adapter = Lora.from_factors(*sites, base_model_name_or_path=str(tmp_path), task_type="FEATURE_EXTRACTION")
    with pytest.raises(ConfigError, match="is no readable JSON"):
        Architecture.check_at_hand(str(tmp_path), adapter)


def test_generating_over_it_does_not_import_transformers(tmp_path):
    script = (
        "import sys; from typer.testing import CliRunner; from loragen.cli.app import app;"
        "result = CliRunner().invoke(app, sys.argv[1:]); print(result.output); assert result.exit_code == 0;"
        "print(sorted({'transformers', 'peft', 'sentence_transformers', 'lightning'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", script, "generate", "Is it spam?", "--out", str(tmp_path / "spam")]
    made = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert made.stdout.splitlines()[-1] == "[]"


def test_a_bert_without_a_tokenizer_or_with_a_head_is_left_to_transformers(folder, tmp_path):
    model = tiny_bert()
    model.save_pretrained(tmp_path)
    assert Bert.open(tmp_path, 16) is None, "no tokenizer"
    shutil.copy(folder / "tokenizer.json", tmp_path)
    assert Bert.open(tmp_path, 16) is not None
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {name.replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}, tmp_path / WEIGHTS
    )
    assert Bert.open(tmp_path, 16) is None, "other names"
    (tmp_path / "model.safetensors").unlink()
    assert Bert.open(tmp_path, 16) is None, "no weights in one file"
