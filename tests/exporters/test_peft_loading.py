import json
import warnings

import pytest
import torch
from made_adapters import KEY, QUERY, everywhere, make, write_configs

from loragen.bases.architecture import Architecture
from loragen.exporters.peft_loading import PeftLoading, judge_peft, load_with_peft

HEADED = "bert.encoder.layer.0.attention.self.query"
VISION = "model.language_model.layers.0.self_attn.q_proj"
OLDER = "language_model.model.layers.0.self_attn.q_proj"
LLAMA, GPT2, GEMMA3 = "LlamaForCausalLM", "GPT2LMHeadModel", "Gemma3ForConditionalGeneration"
CASES = {
    "right": (LLAMA, make(*everywhere(QUERY, KEY))),
    "all-linear": (LLAMA, make(QUERY.format(0), target_modules="all-linear")),
    "no model. in front": (LLAMA, make("layers.0.self_attn.q_proj")),
    "model. too much": (LLAMA, make("model.model.layers.0.self_attn.q_proj")),
    "one layer too many": (LLAMA, make(QUERY.format(0), QUERY.format(7))),
    "other shape": (LLAMA, make(QUERY.format(0), shapes={QUERY.format(0): (8, 16)})),
    "not linear": (LLAMA, make("model.layers.0.input_layernorm")),
    "flag": (LLAMA, make(QUERY.format(0), fan_in_fan_out=True)),
    "ranks of its own": (LLAMA, make(*everywhere(QUERY), r=4, ranks={QUERY.format(1): 2})),
    "flag of Conv1D": (GPT2, make("transformer.h.0.attn.c_attn", fan_in_fan_out=True)),
    "no flag of Conv1D": (GPT2, make("transformer.h.0.attn.c_attn")),
    "a head left at home": ("BertForSequenceClassification", make(HEADED, task_type="SEQ_CLS")),
    "the base's own head": ("BertForSequenceClassification", make(HEADED)),
    "embeddings": ("BertModel", make(HEADED.removeprefix("bert."), task_type="FEATURE_EXTRACTION")),
    "another class": ("BertModel", make(HEADED, task_type="FEATURE_EXTRACTION", target_modules=("query",))),
    "text of a vision model": (GEMMA3, make(VISION)),
    "older names": (GEMMA3, make(OLDER, target_modules=("q_proj",))),
    "older names as targets": (GEMMA3, make(OLDER)),
}
INITS = {
    f"{'one' if targets else 'all'} with init {init}": (
        LLAMA,
        make(QUERY.format(0), r=rank, target_modules=targets or (QUERY.format(0),)),
        init,
    )
    for targets in (None, ("q_proj",))
    for init, rank in ((False, 4), ("gaussian", 4), ("orthogonal", 4), ("orthogonal", 3), ("mica", 4), ("eva", 4))
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    from transformers import Gemma3Config

    root = write_configs(tmp_path_factory.mktemp("bases"))
    config = json.loads((root / "BertModel" / "config.json").read_text())
    (root / "BertForSequenceClassification").mkdir()
    headed = json.dumps(config | {"architectures": ["BertForSequenceClassification"]})
    (root / "BertForSequenceClassification" / "config.json").write_text(headed)
    tower = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = tower | {"vocab_size": 64, "num_key_value_heads": 2, "head_dim": 4}
    special = {"mm_tokens_per_image": 4, "image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62}
    vision = tower | {"image_size": 16, "patch_size": 8}
    Gemma3Config(text_config=text, vision_config=vision, **special, architectures=[GEMMA3]).save_pretrained(
        root / GEMMA3
    )
    return root


def verdict_on(adapter, base, folder):
    config = json.loads((folder / "adapter_config.json").read_text())
    return judge_peft(adapter, config, base, load_with_peft(folder, base))


def by_peft(base, folder):
    """The sites that plain PEFT changes on a real model of a base, or its error."""
    import transformers
    from peft import PeftModel

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        config = transformers.AutoConfig.from_pretrained(base.name)
        try:
            loaded = PeftModel.from_pretrained(getattr(transformers, base.model_class)(config), folder)
        except (ValueError, RuntimeError, KeyError) as error:
            return error
        return {
            name.removeprefix("base_model.model.")
            for name, module in loaded.named_modules()
            if hasattr(module, "get_delta_weight") and module.get_delta_weight("default").norm() > 1e-6
        }


def assert_as_peft_does(adapter, base, folder, wanted=None):
    verdict, met = verdict_on(adapter, base, folder), by_peft(base, folder)
    assert verdict.loads == isinstance(met, set), met
    if verdict.loads:
        assert (met == (wanted or set(adapter.sites))) == (not verdict.problems)
    else:
        assert len(verdict.problems) == 1
        assert "\n" not in verdict.problems[0]
    return verdict


@pytest.mark.parametrize("case", CASES)
def test_the_verdict_for_peft_is_what_peft_does(tmp_path, bases, case, capfd):
    model_class, adapter = CASES[case]
    base = Architecture.fitting(str(bases / model_class), adapter.sites, adapter.settings.task_type)
    adapter.save(tmp_path / "adapter")
    assert_as_peft_does(adapter, base, tmp_path / "adapter", {VISION} if case == "older names" else None)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("case", INITS)
def test_the_first_values_of_the_factors_count_as_they_do_in_peft(tmp_path, bases, case):
    model_class, adapter, init = INITS[case]
    adapter.save(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": init}))
    verdict = assert_as_peft_does(adapter, Architecture.of(str(bases / model_class)), tmp_path / "adapter")
    assert any("random ones" in problem for problem in verdict.problems) == (init is False and "one" in case)


@pytest.mark.parametrize(
    ("case", "loads", "said"),
    [
        ("no model. in front", True, "PEFT leaves out all of its sites without an error; rename 'layers.0.self_attn"),
        ("no model. in front", True, "to 'model.layers.0.self_attn.q_proj' and so on."),
        ("one layer too many", True, "1 of its 2 sites (such as 'model.layers.7"),
        ("flag", True, "fan_in_fan_out is wrong; PEFT puts it right with a warning"),
        ("all-linear", True, "names 'model.layers.0.mlp.down_proj', for which there are no weights; it stays as"),
        ("older names", True, "PEFT finds all of its sites under the base's new names"),
        ("model. too much", False, "PEFT ends with: Target modules {'model.model.layers"),
        ("model. too much", False, "; rename 'model.model.layers.0.self_attn.q_proj' to 'model.layers.0.self_attn"),
        ("other shape", False, "size mismatch for base_model.model.model.layers.0"),
        ("other shape", False, "; serve it on the base it was made for."),
        ("not linear", False, "; make the adapter without 'model.layers.0.input_layernorm'."),
        ("a head left at home", False, "KeyError 'base_model.model.classifier.weight'; where the base's own head is"),
    ],
)
def test_verdicts_for_peft_say_the_way_out(tmp_path, bases, case, loads, said):
    model_class, adapter = CASES[case]
    adapter.save(tmp_path / "adapter")
    verdict = verdict_on(adapter, Architecture.of(str(bases / model_class)), tmp_path / "adapter")
    assert verdict.loads == loads
    assert said in " ".join((*verdict.problems, *verdict.notes))


def test_an_adapter_that_peft_takes_whole_is_said_to_without_a_remark(tmp_path, bases):
    for case in ("right", "ranks of its own", "flag of Conv1D", "text of a vision model"):
        model_class, adapter = CASES[case]
        adapter.save(tmp_path / "adapter")
        verdict = verdict_on(adapter, Architecture.of(str(bases / model_class)), tmp_path / "adapter")
        assert (verdict.loads, verdict.problems, verdict.notes) == (True, (), ())


def test_a_model_of_any_size_takes_no_memory_and_draws_no_random_numbers(tmp_path):
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=8192, num_hidden_layers=4, num_attention_heads=64, intermediate_size=28672, vocab_size=128256
    )
    config.architectures = [LLAMA]
    config.save_pretrained(tmp_path / "base")
    site = QUERY.format(3)
    make(site, r=2, shapes={site: (8192, 8192)}).save(tmp_path / "adapter")
    state = torch.random.get_rng_state()
    assert load_with_peft(tmp_path / "adapter", Architecture.of(str(tmp_path / "base"))) == PeftLoading()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_without_a_base_nothing_is_compared():
    adapter = CASES["right"][1]
    verdict = judge_peft(adapter, adapter.settings.to_config(), None, None)
    assert (verdict.loads, verdict.notes) == (True, ("not compared with the base, whose config is not at hand",))
