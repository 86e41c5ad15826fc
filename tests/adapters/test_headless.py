"""Adapters of classifiers without their heads: the features of what is left are those of PEFT's own model inside."""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import Lora
from loragen.bases.linear_sites import site_updates
from loragen.errors import AdapterError

TOKENS = torch.arange(1, 25).reshape(2, 12)
BERT = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
LLAMA = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
DEBERTA = {key: value for key, value in BERT.items() if key != "max_position_embeddings"} | {"pooler_hidden_size": 16}
# Name of the family, values of its config, targets; the last names a part of the head too.
FAMILIES = {
    "bert": ("Bert", BERT, ["query", "output.dense"]),
    "llama": ("Llama", LLAMA, ["q_proj", "v_proj", "down_proj"]),
    "roberta": ("Roberta", BERT, ["query", "dense"]),
    "deberta": ("DebertaV2", DEBERTA, ["query_proj", "dense"]),
}
TASKS = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "QUESTION_ANS": "ForQuestionAnswering",
}


def made_by_peft(folder, family="bert", task="SEQ_CLS", **options):
    """Save an adapter of a classifier with its head, as PEFT does; returns PEFT's model and its base."""
    import transformers
    from peft import LoraConfig, get_peft_model

    name, values, targets = FAMILIES[family]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        base = getattr(transformers, name + TASKS[task])(getattr(transformers, f"{name}Config")(**values)).eval()
        base.save_pretrained(folder / "base")
        getattr(base, base.base_model_prefix).save_pretrained(folder / "inside")
        config = LoraConfig(
            **{"r": 3, "lora_alpha": 6, "target_modules": targets, "init_lora_weights": False, "task_type": task}
            | options
        )
        model = get_peft_model(base, config).eval()
        model.save_pretrained(folder / "adapter")
    return model


def features(family, folder, lora):
    """Hidden states of the plain model of a base, with an adapter added."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder / "inside").eval()
    factors = {site: lora.scaled_factors(site) for site in lora.sites}
    with torch.no_grad(), site_updates(model, family, factors):
        return model(TOKENS, attention_mask=torch.ones_like(TOKENS))[0]


def features_by_peft(folder, task, family):
    import transformers
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = getattr(transformers, FAMILIES[family][0] + TASKS[task])
        model = PeftModel.from_pretrained(kind.from_pretrained(folder / "base"), folder / "adapter").eval()
    inside = getattr(model.base_model.model, model.base_model.model.base_model_prefix)
    with torch.no_grad():
        return inside(TOKENS, attention_mask=torch.ones_like(TOKENS))[0]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_peft(tmp_path, family, task):
    made_by_peft(tmp_path, family, task, rank_pattern={".*layers?.1.*": 2}, alpha_pattern={".*(query|q_proj)": 9})
    with pytest.raises(AdapterError, match="--without-head"):
        Lora.load(tmp_path / "adapter")
    lora = Lora.load(tmp_path / "adapter", without_head=True)
    assert lora.settings.task_type == "FEATURE_EXTRACTION"
    wanted = features_by_peft(tmp_path, task, family)
    torch.testing.assert_close(features(family, tmp_path, lora), wanted, rtol=0, atol=1e-5)
    assert any("without its head" in note for note in lora.origin.notes)

    import transformers

    plain = transformers.AutoModel.from_pretrained(tmp_path / "inside").eval()
    with torch.no_grad():
        bare = plain(TOKENS, attention_mask=torch.ones_like(TOKENS))[0]
    assert not torch.allclose(bare, wanted, atol=1e-2)


def test_what_is_written_is_read_by_peft_as_an_adapter_of_features(tmp_path):
    import transformers
    from peft import PeftModel

    made_by_peft(tmp_path)
    Lora.load(tmp_path / "adapter", without_head=True).save(tmp_path / "plain")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        base = transformers.AutoModel.from_pretrained(tmp_path / "inside")
        model = PeftModel.from_pretrained(base, tmp_path / "plain").eval()
    with torch.no_grad():
        met = model(TOKENS, attention_mask=torch.ones_like(TOKENS))[0]
    torch.testing.assert_close(met, features_by_peft(tmp_path, "SEQ_CLS", "bert"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("ending", ["modules_to_save.default.weight", "original_module.weight", "dense.weight"])
def test_older_names_of_a_head_are_left_out_too(tmp_path, ending):
    made_by_peft(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file(load_file(path) | {f"base_model.model.classifier.{ending}": torch.ones(2, 16)}, path)
    lora = Lora.load(tmp_path / "adapter", without_head=True)
    assert lora.sites[0] == "encoder.layer.0.attention.output.dense"


def test_a_head_that_the_config_does_not_name_names_the_way_out(tmp_path):
    made_by_peft(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"modules_to_save": None}))
    with pytest.raises(AdapterError, match=r"classifier.*head of a classifier.*--without-head"):
        Lora.load(tmp_path / "adapter")
    assert Lora.load(tmp_path / "adapter", without_head=True).settings.task_type == "FEATURE_EXTRACTION"


def test_modules_that_were_trained_inside_the_model_are_refused_all_the_same(tmp_path):
    made_by_peft(tmp_path, modules_to_save=["pooler"])
    with pytest.raises(AdapterError, match=r"holds .*bert\.pooler\.dense.*a whole weight"):
        Lora.load(tmp_path / "adapter", without_head=True)


def test_an_adapter_without_a_head_stays_as_it_is(tmp_path):
    made_by_peft(tmp_path)
    Lora.load(tmp_path / "adapter", without_head=True).save(tmp_path / "plain")
    once, twice = (Lora.load(tmp_path / "plain", without_head=flag) for flag in (False, True))
    assert once.settings == twice.settings
    assert once.sites == twice.sites


def test_other_tasks_have_no_head_to_leave_out(tmp_path):
    made_by_peft(tmp_path)
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"task_type": "CAUSAL_LM"}))
    with pytest.raises(AdapterError, match=r"CAUSAL_LM.*no head to leave out"):
        Lora.load(tmp_path / "adapter", without_head=True)


@pytest.mark.parametrize("prefix", ["", "encoder."])
def test_names_that_do_not_tell_the_model_from_its_head_are_refused(tmp_path, prefix):
    made_by_peft(tmp_path)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({key.replace("bert.", prefix, 1): tensor for key, tensor in load_file(path).items()}, path)
    with pytest.raises(AdapterError, match="do not tell the model from its head"):
        Lora.load(tmp_path / "adapter", without_head=True)
