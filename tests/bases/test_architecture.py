import resource
from pathlib import Path

import hub_fakes
import pytest
import torch
from models import tiny_gpt2, tiny_llama

from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture, Linear
from loragen.errors import AdapterError, ConfigError

hub = hub_fakes.hub

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
HEADS = GROUPED | {"head_dim": 6}
T5 = {"vocab_size": 64, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4}
PATCHES = {key: SIZES[key] for key in SIZES if key.startswith(("hidden", "num", "inter"))} | {
    "image_size": 8,
    "patch_size": 4,
}
MODELS = {
    "BertModel": SIZES,
    "RobertaForMaskedLM": SIZES,
    "ModernBertModel": SIZES | {"cls_token_id": 1, "sep_token_id": 2},
    "MPNetModel": SIZES,
    "LlamaForCausalLM": GROUPED,
    "MistralForCausalLM": GROUPED,
    "Qwen2ForCausalLM": GROUPED,
    "Qwen3ForCausalLM": HEADS,
    "GemmaForCausalLM": HEADS,
    "GPT2LMHeadModel": {
        "vocab_size": 64,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "GPTNeoXForCausalLM": SIZES,
    "T5ForConditionalGeneration": T5,
    "CLIPModel": {"text_config": SIZES, "vision_config": PATCHES, "projection_dim": 8},
}


def write_config(folder, model_class, declared=True, **values):
    """A folder that holds nothing but the config of a class of transformers."""
    import transformers

    made = getattr(transformers, model_class)
    config = made.config_class(**values, **({"architectures": [model_class]} if declared else {}))
    folder.mkdir()
    (folder / "config.json").write_text(config.to_json_string())
    return made, config


def adapter_at(sites, r=2, **options):
    """An adapter of ones: site → (out, in)."""
    return Lora.from_factors(
        {site: torch.ones(r, columns) for site, (_, columns) in sites.items()},
        {site: torch.ones(rows, r) for site, (rows, _) in sites.items()},
        base_model_name_or_path="tiny",
        **options,
    )


@pytest.fixture
def llama(tmp_path):
    write_config(tmp_path / "llama", "LlamaForCausalLM", **GROUPED)
    return str(tmp_path / "llama")


@pytest.fixture
def gpt2(tmp_path):
    write_config(tmp_path / "gpt2", "GPT2LMHeadModel", **MODELS["GPT2LMHeadModel"])
    return str(tmp_path / "gpt2")


# --- what is laid out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model_class", MODELS)
def test_a_config_alone_gives_the_modules_of_the_real_model(tmp_path, model_class):
    made, config = write_config(tmp_path / "base", model_class, **MODELS[model_class])
    architecture = Architecture.of(str(tmp_path / "base"))
    modules = dict(made(config).named_modules())
    real = {path: module for path, module in modules.items() if type(module).__name__ in ("Linear", "Conv1D")}
    assert architecture.model_class == model_class
    assert architecture.linear.keys() == real.keys()
    assert architecture.linear.keys() | architecture.others.keys() == modules.keys() - {""}
    for path, linear in architecture.linear.items():
        shape = (linear.out_features, linear.in_features)
        assert tuple(real[path].weight.shape) == (shape[::-1] if linear.is_transposed else shape)
        assert linear.is_transposed == (type(real[path]).__name__ == "Conv1D")


def test_a_task_type_chooses_the_class_and_without_one_the_config_does(tmp_path, llama):
    by_task = {
        "CAUSAL_LM": "LlamaForCausalLM",
        "FEATURE_EXTRACTION": "LlamaModel",
        "SEQ_CLS": "LlamaForSequenceClassification",
        "TOKEN_CLS": "LlamaForTokenClassification",
        "QUESTION_ANS": "LlamaForQuestionAnswering",
        None: "LlamaForCausalLM",
    }
    assert {task: Architecture.of(llama, task).model_class for task in by_task} == by_task
    write_config(tmp_path / "t5", "T5ForConditionalGeneration", **T5)
    t5 = Architecture.of(str(tmp_path / "t5"), "SEQ_2_SEQ_LM")
    assert (t5.model_class, t5.model_type, t5.is_encoder_decoder) == ("T5ForConditionalGeneration", "t5", True)
    assert (Architecture.of(llama).model_type, Architecture.of(llama).is_encoder_decoder) == ("llama", False)
    write_config(tmp_path / "untold", "LlamaForCausalLM", declared=False, **GROUPED)
    assert Architecture.of(str(tmp_path / "untold")).model_class == "LlamaModel"


@pytest.mark.parametrize(
    ("site", "model_class"),
    [
        ("model.layers.0.self_attn.q_proj", "LlamaForCausalLM"),
        ("layers.0.self_attn.q_proj", "LlamaModel"),
        ("score", "LlamaForSequenceClassification"),
        ("nowhere", "LlamaForCausalLM"),
    ],
)
def test_sites_tell_the_class_that_an_untyped_adapter_was_made_on(llama, site, model_class):
    assert Architecture.fitting(llama, [site]).model_class == model_class
    assert Architecture.fitting(llama, [site], "CAUSAL_LM").model_class == "LlamaForCausalLM"


def test_where_no_class_has_all_sites_the_one_that_has_most_is_taken(llama):
    sites = ["layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj", "model.layers.0.self_attn.q_proj"]
    assert Architecture.fitting(llama, sites).model_class == "LlamaModel"


def test_weights_and_code_beside_the_config_are_not_read(tmp_path, llama):
    for name in ("model.safetensors", "pytorch_model.bin", "modeling_llama.py"):
        (tmp_path / "llama" / name).write_text("raise SystemExit")
    assert "lm_head" in Architecture.of(llama).linear


def test_laying_out_leaves_the_process_as_it_was(llama, capfd, monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(logging._get_library_root_logger(), "level", logging.WARNING)
    state = torch.random.get_rng_state()
    Architecture.of(llama)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.get_verbosity() == logging.WARNING
    assert torch.empty(0).device.type == "cpu"
    assert capfd.readouterr() == ("", "")


def test_an_8b_llama_takes_no_memory(tmp_path):
    write_config(
        tmp_path / "8b",
        "LlamaForCausalLM",
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        dtype="bfloat16",
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    architecture = Architecture.of(str(tmp_path / "8b"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000, "kB; the weights are 16 000 000"
    assert len(architecture.linear) == 7 * 32 + 1
    assert architecture.linear["model.layers.31.self_attn.k_proj"] == Linear(1024, 4096)
    sites = {f"model.layers.{layer}.mlp.down_proj": (4096, 14336) for layer in range(32)}
    assert architecture.faults(adapter_at(sites, r=1)) == ()
    assert "the base 14336 to 4096 (the first of 32" in architecture.faults(adapter_at(dict.fromkeys(sites, (8, 8))))[0]


# --- where configs are found ------------------------------------------------------------------------------------------


def test_from_the_hub_only_the_config_is_asked_for_and_at_hand_asks_nothing(tmp_path, llama, hub):
    hub.repos["meta/llama", "main"] = hub.repos["meta/llama", "v2"] = Path(llama)
    assert Architecture.at_hand("meta/llama", ["lm_head"]) is None
    assert hub.asked == []
    assert Architecture.of("meta/llama").name == "meta/llama"
    assert set(hub.fetched) == {"config.json"}
    assert Architecture.of("meta/llama@v2").name == "meta/llama@v2"
    hub.asked.clear()
    hub.fetched.clear()
    assert Architecture.at_hand("meta/llama", ["lm_head"]).model_class == "LlamaForCausalLM"
    assert hub.asked == hub.fetched == []


def test_a_cached_config_of_the_hub_is_at_hand(tmp_path, llama, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert Architecture.at_hand("meta/llama", ["lm_head"]) is None
    snapshot = tmp_path / "hub" / "models--meta--llama" / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_bytes((tmp_path / "llama" / "config.json").read_bytes())
    refs = tmp_path / "hub" / "models--meta--llama" / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    assert Architecture.at_hand("meta/llama", ["lm_head"]).model_class == "LlamaForCausalLM"
    assert Architecture.of("meta/llama").linear["lm_head"] == Linear(64, 16)


def test_the_embedded_model_is_known_by_its_names():
    for name in ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"):
        assert Architecture.of(name).linear["encoder.layer.5.attention.self.query"] == Linear(384, 384)


def test_a_base_without_a_config_is_refused_and_not_at_hand(tmp_path):
    (tmp_path / "empty").mkdir()
    for name, message in {
        "nobody/nothing": "no folder here.*Check the name, .*or go online",
        "not a name": "There is no config of the base 'not a name'",
        str(tmp_path / "empty"): "is empty; give the folder",
    }.items():
        with pytest.raises(ConfigError, match=message):
            Architecture.of(name)
        assert Architecture.at_hand(name, ["lm_head"]) is None


@pytest.mark.parametrize(
    "config",
    [
        "{",
        '{"model_type": "no such"}',
        '{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": "many"}',
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}',
    ],
)
def test_a_config_that_cannot_be_laid_out_is_refused(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "own.py").write_text("raise SystemExit('code of a model was run')")
    for ask in (Architecture.of, lambda name: Architecture.at_hand(name, ["lm_head"])):
        with pytest.raises(ConfigError, match="an architecture was wanted that the installed transformers has"):
            ask(str(tmp_path))


# --- whether adapters fit ---------------------------------------------------------------------------------------------

QUERY, KEY = ("model.layers.{}.self_attn.q_proj", "model.layers.{}.self_attn.k_proj")


def llama_sites(prefix="model."):
    return {
        f"{prefix}layers.{layer}.self_attn.{name}": (rows, 16)
        for layer in (0, 1)
        for name, rows in (("q_proj", 16), ("k_proj", 8))
    }


def test_adapters_of_peft_fit_the_models_they_were_made_on(tmp_path):
    from peft import LoraConfig, get_peft_model

    for i, (model, targets, fan) in enumerate([(tiny_llama(), "all-linear", False), (tiny_gpt2(), ["c_attn"], True)]):
        base = tmp_path / str(i)
        model.save_pretrained(base)
        config = LoraConfig(r=2, target_modules=targets, fan_in_fan_out=fan, task_type="CAUSAL_LM")
        get_peft_model(model, config).save_pretrained(tmp_path / f"{i}-adapter")
        adapter = Lora.load(tmp_path / f"{i}-adapter")
        architecture = Architecture.fitting(str(base), adapter.sites, "CAUSAL_LM")
        assert architecture.faults(adapter) == ()
        architecture.check(adapter)


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("", r"4 of the adapter's 4 sites.*no 'layers.0.*' but 'model.layers.0.*the prefix 'model.' is missing"),
        ("base_model.model.model.", r"the prefix 'base_model.model.' is too much"),
        ("0.auto_model.", r"the prefix is 'model.', not '0.auto_model.'"),
    ],
)
def test_a_prefix_that_differs_is_named_and_so_is_the_silence_about_it(llama, prefix, message):
    architecture = Architecture.fitting(llama, llama_sites(prefix), "CAUSAL_LM")
    with pytest.raises(AdapterError, match=message) as caught:
        architecture.check(adapter_at(llama_sites(prefix)))
    assert "they stay as the base has them, without an error (vLLM's issue 34186)" in str(caught.value)


def test_a_prefix_too_much_is_named(llama):
    inner = Architecture.of(llama, "FEATURE_EXTRACTION")
    assert inner.faults(adapter_at(llama_sites(""))) == ()
    assert "the prefix 'model.' is too much" in inner.faults(adapter_at(llama_sites()))[0]


def test_another_layer_is_no_other_prefix_and_the_near_name_is_given(llama):
    (fault,) = Architecture.of(llama).faults(adapter_at(llama_sites() | {QUERY.format(7): (16, 16)}))
    assert fault.startswith(f"1 of the adapter's 5 sites are not in LlamaForCausalLM of {llama}")
    assert f"no {QUERY.format(7)!r}, the nearest is {QUERY.format(1)!r}" in fault
    assert "name the base it was made for with --base" in fault


def test_modules_that_are_not_linear_are_named_as_what_they_are(llama):
    (fault,) = Architecture.of(llama).faults(adapter_at({"model.norm": (16, 16), "model.embed_tokens": (16, 64)}))
    assert f"'model.embed_tokens' is of class Embedding in LlamaForCausalLM of {llama}, no linear module" in fault
    assert "(the first of 2 such sites); make the adapter without it" in fault


def test_other_shapes_are_said_in_words(llama):
    (fault,) = Architecture.of(llama).faults(adapter_at({KEY.format(0): (6, 8), QUERY.format(0): (16, 16)}))
    assert f"The adapter maps 8 to 6 features at {KEY.format(0)!r}, the base 16 to 8; name the base" in fault


def test_fan_in_fan_out_must_say_what_the_modules_are(llama, gpt2):
    attention, head = {"transformer.h.0.attn.c_attn": (48, 16)}, {"lm_head": (64, 16)}
    architecture = Architecture.of(gpt2)
    (fault,) = architecture.faults(adapter_at(attention))
    assert "fan_in_fan_out is false, but GPT2LMHeadModel" in fault
    assert "keeps weights of its sites as (in, out); set it to true in adapter_config.json" in fault
    assert architecture.faults(adapter_at(attention, fan_in_fan_out=True)) == ()
    assert architecture.faults(adapter_at(attention | head, fan_in_fan_out=True)) == (), "one flag for both kinds"
    (fault,) = Architecture.of(llama).faults(adapter_at(llama_sites(), fan_in_fan_out=True))
    assert "keeps no weight of its sites as (in, out); set it to false" in fault


def test_all_faults_are_said_at_once(llama):
    sites = llama_sites() | {QUERY.format(0): (4, 4), "model.norm": (16, 16), "elsewhere": (2, 2)}
    with pytest.raises(AdapterError) as caught:
        Architecture.of(llama).check(adapter_at(sites))
    assert all(word in str(caught.value) for word in ("elsewhere", "model.norm", "maps 4 to 4"))
