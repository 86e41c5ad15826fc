"""Folders for other programs: the same update in the form that each wants, and embeddings as PEFT gives them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import write_base
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer

import loragen
from loragen.adapters.adapter import Lora
from loragen.bases.hub import resolve_model
from loragen.bases.open import open_base
from loragen.errors import AdapterError, ConfigError
from loragen.exporters.engine_folders import uniform

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
TEXTS = ["The heating is cold.", "Could I pay the rent in two parts?"]


def adapter_of(base, targets: tuple[str, ...], r: int = 2) -> Lora:
    rng = torch.Generator().manual_seed(0)
    sites = base.sites(targets)
    ranks = {site: r + (number == 1) for number, site in enumerate(sites)}
    made = Lora.from_factors(
        {site: torch.randn(ranks[site], size[1], generator=rng) / 4 for site, size in sites.items()},
        {site: torch.randn(size[0], ranks[site], generator=rng) / 4 for site, size in sites.items()},
        base_model_name_or_path=base.name,
        task_type=base.task_type,
        scaling=0.5,
    )
    return replace(made, settings=replace(made.settings, use_rslora=True))


@pytest.fixture
def llama(tmp_path) -> loragen.Adapter:
    folder = write_base(tmp_path / "base", "llama")
    base = open_base(str(folder), objective="causal_lm")
    adapter_of(base, ("q_proj", "v_proj")).save(tmp_path / "adapter")
    return loragen.Adapter.load(tmp_path / "adapter")


def config_in(folder: Path) -> dict:
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("to", ["vllm", "sglang", "lorax"])
def test_the_update_is_the_same_under_one_rank_and_scaling(to, llama, tmp_path) -> None:
    made = llama.export(tmp_path / "out" / "mine", to=to, base_name="org/served")
    read, config = Lora.load(made.file), config_in(made.file)
    assert config["base_model_name_or_path"] == "org/served"
    assert (config["peft_type"], config["lora_alpha"], config["r"]) == ("LORA", 3, 3)
    assert (config["rank_pattern"], config["alpha_pattern"], config["use_rslora"]) == ({}, {}, False)
    assert config["target_modules"] == ["q_proj", "v_proj"]
    for site in llama.lora.sites:
        torch.testing.assert_close(read.delta_weight(site), llama.lora.delta_weight(site), rtol=1e-5, atol=1e-6)
    assert "not run" in made.notes[0]


def test_vllm_is_told_where_its_resolver_looks(llama, tmp_path) -> None:
    made = llama.export(tmp_path / "dir" / "mine", to="vllm")
    assert f"VLLM_LORA_RESOLVER_CACHE_DIR={tmp_path / 'dir'}" in made.use
    assert made.use.endswith("ask for the model mine")


def test_what_an_engine_refuses_is_not_written(tmp_path) -> None:
    made = loragen.generate("Sort letters.", labels=["a", "b"], fallback=False)
    for to, name in (("vllm", "vLLM"), ("lorax", "LoRAX")):
        with pytest.raises(AdapterError, match=f"Not written for {name}: .*loragen merge"):
            made.export(tmp_path / to, to=to)
        assert not (tmp_path / to).exists()


def test_what_stands_there_is_left_alone(llama, tmp_path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(ConfigError, match="mine"):
            llama.export(target, to="sglang", force=force)
    assert (target / "thesis.txt").read_text() == "mine"


def test_uniform_keeps_an_adapter_that_is_uniform(llama) -> None:
    once = uniform(llama.lora, "x")
    again = uniform(once, "x")
    assert again.files() == once.files()


def peft_embeddings(base: Path, folder: Path, *, normalise: bool = True) -> torch.Tensor:
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder).eval()
    rows = AutoTokenizer.from_pretrained(base)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**rows).last_hidden_state
    mask = rows["attention_mask"][..., None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(pooled, dim=-1) if normalise else pooled


def test_a_sentence_transformer_embeds_as_peft_does(tmp_path) -> None:
    from sentence_transformers import SentenceTransformer

    base = Path(resolve_model("sentence-transformers/all-MiniLM-L6-v2"))
    made = loragen.generate("Sort letters by what they ask for.", labels=["a", "b"], fallback=False)
    out = made.export(tmp_path / "whole", to="sentence-transformers", base_name=str(base)).file
    found = SentenceTransformer(str(out)).encode(TEXTS, convert_to_tensor=True).cpu()
    bare = SentenceTransformer(str(base)).encode(TEXTS, convert_to_tensor=True).cpu()
    torch.testing.assert_close(found, peft_embeddings(base, out), rtol=1e-4, atol=1e-5)
    assert (found - bare).abs().max() > 1e-2


def test_an_encoder_without_modules_gets_the_plain_ones(tmp_path) -> None:
    from sentence_transformers import SentenceTransformer

    base = write_base(tmp_path / "base", "bert")
    adapter_of(open_base(str(base), objective="label_text"), ("query", "value")).save(tmp_path / "adapter")
    out = loragen.Adapter.load(tmp_path / "adapter").export(tmp_path / "whole", to="sentence-transformers").file
    found = SentenceTransformer(str(out)).encode(TEXTS, convert_to_tensor=True).cpu()
    torch.testing.assert_close(found, peft_embeddings(base, out), rtol=1e-4, atol=1e-5)


def test_a_language_model_makes_no_sentence_transformer(llama, tmp_path) -> None:
    with pytest.raises(AdapterError, match="text encoder"):
        llama.export(tmp_path / "whole", to="sentence-transformers")


def test_an_export_in_place_of_an_older_one(llama, tmp_path) -> None:
    out = llama.export(tmp_path / "mine", to="sglang").file
    with pytest.raises(ConfigError, match="mine"):
        llama.export(out, to="sglang")
    shutil.copyfile(out / "adapter_config.json", tmp_path / "before.json")
    llama.export(out, to="sglang", force=True)
    assert config_in(out) == json.loads((tmp_path / "before.json").read_text())
