"""Heads and shared weights of merged models: what PEFT's adapted model computes, and no random numbers."""

import json

import pytest
import torch
from families import write_base
from safetensors import safe_open

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError, ConfigError
from loragen.exporters.merged_model import merge_into_base

# PEFT asks transformers for an attribute that transformers has renamed, and warns of what is tested here.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]
SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
TIED = {
    "LlamaForCausalLM": ("LlamaConfig", SIZES | ENDS | {"tie_word_embeddings": True}, "lm_head", "CAUSAL_LM"),
    "GPT2LMHeadModel": (
        "GPT2Config",
        ENDS | {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2},
        "lm_head",
        None,
    ),
    "T5ForConditionalGeneration": ("T5Config", T5, "lm_head", "SEQ_2_SEQ_LM"),
    "BertForMaskedLM": ("BertConfig", SIZES, "cls.predictions.decoder", None),
}
QUERY = "encoder.layer.1.attention.self.query"


def at(site, rows=16, task_type=None, *, columns=16):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, columns, generator=rng), torch.randn(rows, 2, generator=rng)
    return Lora.from_factors({site: a}, {site: b}, base_model_name_or_path="tiny", task_type=task_type)


def write(folder, model_class, config, sizes):
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = getattr(transformers, model_class)(getattr(transformers, config)(**sizes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


def loaded(model_class, folder):
    import transformers

    model, told = getattr(transformers, model_class).from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    return model.eval()


def tensors(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping


@pytest.mark.parametrize("model_class", TIED)
def test_a_head_that_is_tied_to_the_embeddings_is_untied(tmp_path, model_class):
    from peft import PeftModel

    config, sizes, site, task_type = TIED[model_class]
    base = write(tmp_path / "base", model_class, config, sizes)
    adapter = at(site, 64, task_type)
    adapter.save(tmp_path / "adapter")
    bare = loaded(model_class, base)
    embeddings = bare.get_input_embeddings().weight.detach().clone()
    inputs = bare.dummy_inputs
    with torch.no_grad():
        before = bare(**inputs).logits
        wanted = PeftModel.from_pretrained(bare, tmp_path / "adapter").eval()(**inputs).logits
    merge_into_base(adapter, base, tmp_path / "merged", readme="# Merged\n")
    merged = loaded(model_class, tmp_path / "merged")
    with torch.no_grad():
        met = merged(**inputs).logits
    torch.testing.assert_close(met, wanted, atol=1e-4, rtol=1e-4)
    assert (met - before).abs().max() > 0.1
    assert torch.equal(merged.get_input_embeddings().weight, embeddings)
    assert f"`{site}`" in (tmp_path / "merged" / "README.md").read_text()
    assert "untied" in (tmp_path / "merged" / "README.md").read_text()


def test_a_tied_head_that_the_adapter_leaves_alone_stays_tied(tmp_path):
    config, sizes, _site, task_type = TIED["LlamaForCausalLM"]
    base = write(tmp_path / "base", "LlamaForCausalLM", config, sizes)
    merge_into_base(at("model.layers.0.self_attn.q_proj", 16, task_type), base, tmp_path / "out", readme="# Merged\n")
    assert tensors(tmp_path / "out").keys() == tensors(base).keys()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is True
    assert (tmp_path / "out" / "README.md").read_text() == "# Merged\n"


@pytest.mark.parametrize("model_class", ["BertForMaskedLM", "BertForTokenClassification", "BertForPreTraining"])
def test_a_merged_model_has_the_tensors_of_its_base_and_no_others(tmp_path, model_class):
    """An adapter of the encoder takes neither the base's head away, nor does it bring a pooler of random numbers."""
    base = write(tmp_path / "base", model_class, "BertConfig", SIZES)
    adapter = at(QUERY, task_type="FEATURE_EXTRACTION")
    merge_into_base(adapter, base, tmp_path / "merged", readme="")
    met, wanted = tensors(tmp_path / "merged"), tensors(base)
    changed = f"bert.{QUERY}.weight"
    torch.testing.assert_close(met[changed], wanted[changed] + adapter.delta_weight(QUERY))
    assert met.keys() == wanted.keys()
    assert all(torch.equal(met[name], wanted[name]) for name in wanted if name != changed)


def test_a_pooler_that_the_base_lacks_is_not_written(tmp_path):
    from transformers import BertModel

    write(tmp_path / "whole", "BertModel", "BertConfig", SIZES)
    model = BertModel.from_pretrained(tmp_path / "whole", add_pooling_layer=False)
    model.save_pretrained(tmp_path / "base")
    merge_into_base(at(QUERY, task_type="FEATURE_EXTRACTION"), tmp_path / "base", tmp_path / "merged", readme="")
    assert tensors(tmp_path / "merged").keys() == tensors(tmp_path / "base").keys()
    assert not [name for name in tensors(tmp_path / "merged") if "pooler" in name]


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
@pytest.mark.parametrize("model_class", ["BertModel", "BertForMaskedLM"])
def test_a_head_of_random_numbers_is_never_written(tmp_path, model_class, task_type):
    base = write(tmp_path / "base", model_class, "BertConfig", SIZES)
    with pytest.raises(
        AdapterError, match=rf"of the task type {task_type}, but neither it nor the base .*--without-head"
    ):
        merge_into_base(at(f"bert.{QUERY}", task_type=task_type), base, tmp_path / "merged", readme="")
    assert not (tmp_path / "merged").exists()


def test_a_head_that_the_base_has_is_kept(tmp_path):
    base = write(tmp_path / "base", "BertForSequenceClassification", "BertConfig", SIZES)
    adapter = at(f"bert.{QUERY}", task_type="SEQ_CLS")
    merge_into_base(adapter, base, tmp_path / "merged", readme="")
    met, wanted = tensors(tmp_path / "merged"), tensors(base)
    assert met.keys() == wanted.keys()
    assert torch.equal(met["classifier.weight"], wanted["classifier.weight"])


def test_a_base_that_lacks_a_layer_is_refused(tmp_path):
    base = write(tmp_path / "base", "BertModel", "BertConfig", SIZES)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match=r"has no weights for 'encoder\.layer\.2"):
        merge_into_base(at(QUERY, task_type="FEATURE_EXTRACTION"), base, tmp_path / "merged", readme="")


def test_a_clip_keeps_both_of_its_towers(tmp_path):
    base = write_base(tmp_path / "base", "clip")
    site = "text_model.encoder.layers.0.self_attn.q_proj"
    merge_into_base(at(site), base, tmp_path / "merged", readme="")
    met, wanted = tensors(tmp_path / "merged"), tensors(base)
    assert met.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(met[name], wanted[name])] == [f"{site}.weight"]
