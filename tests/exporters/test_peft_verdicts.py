"""What `check` says of PEFT is what PEFT does, over many architectures, with names that fit, are older or are wrong."""

import warnings

import pytest
import torch
import transformers as t

from loragen.adapters.adapter import Lora
from loragen.exporters.check import check

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = TOWER | {"vocab_size": 64, "num_key_value_heads": 2}
SMALL = TOWER | {"vocab_size": 64}
ENDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MOE = {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
VISION = TOWER | {"image_size": 16, "patch_size": 8}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e4}
QWEN_VISION = {"depth": 1, "num_heads": 4, "patch_size": 4, "intermediate_size": 24, "hidden_size": 16}
BERT, BLOCK = "encoder.layer.1.attention.self.query", "layers.1.self_attn.q_proj"

# Class → its config, and sites: those of the class, of older versions, with a prefix too few or too many.
MODELS = {
    "BertModel": (lambda: t.BertConfig(**SMALL), BERT, f"bert.{BERT}"),
    "BertForMaskedLM": (lambda: t.BertConfig(**SMALL), f"bert.{BERT}", BERT),
    "RobertaModel": (lambda: t.RobertaConfig(**SMALL), BERT, f"roberta.{BERT}"),
    "RobertaForMaskedLM": (lambda: t.RobertaConfig(**SMALL), f"roberta.{BERT}", BERT),
    "XLMRobertaModel": (lambda: t.XLMRobertaConfig(**SMALL), BERT, f"roberta.{BERT}"),
    "DistilBertModel": (
        lambda: t.DistilBertConfig(vocab_size=64, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
        *("transformer.layer.1.attention.q_lin", "distilbert.transformer.layer.1.attention.q_lin"),
    ),
    "DebertaV2Model": (
        lambda: t.DebertaV2Config(**SMALL),
        *("encoder.layer.1.attention.self.query_proj", "deberta.encoder.layer.1.attention.self.query_proj"),
    ),
    "ElectraModel": (lambda: t.ElectraConfig(**SMALL, embedding_size=16), BERT, f"electra.{BERT}"),
    "ModernBertModel": (
        lambda: t.ModernBertConfig(**SMALL, **ENDS, cls_token_id=1, sep_token_id=2),
        *("layers.1.attn.Wqkv", "model.layers.1.attn.Wqkv"),
    ),
    "GPT2LMHeadModel": (
        lambda: t.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, **ENDS),
        *("transformer.h.1.mlp.c_proj", "h.1.mlp.c_proj"),
    ),
    "GPTNeoXForCausalLM": (
        lambda: t.GPTNeoXConfig(**SMALL, **ENDS),
        *("gpt_neox.layers.1.attention.dense", "layers.1.attention.dense"),
    ),
    "FalconForCausalLM": (
        lambda: t.FalconConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, **ENDS),
        *("transformer.h.1.self_attention.dense", "h.1.self_attention.dense"),
    ),
    "PhiForCausalLM": (lambda: t.PhiConfig(**SMALL, **ENDS), f"model.{BLOCK}", BLOCK),
    "OPTForCausalLM": (
        lambda: t.OPTConfig(**SMALL, **ENDS, ffn_dim=24, word_embed_proj_dim=16),
        *(f"model.decoder.{BLOCK}", f"decoder.{BLOCK}"),
    ),
    "BloomForCausalLM": (
        lambda: t.BloomConfig(vocab_size=64, hidden_size=16, n_layer=2, n_head=2, **ENDS),
        *("transformer.h.1.self_attention.dense", "h.1.self_attention.dense"),
    ),
    "Qwen2VLForConditionalGeneration": (
        lambda: t.Qwen2VLConfig(
            text_config=TEXT | ENDS | {"rope_parameters": ROPE}, vision_config=QWEN_VISION | {"embed_dim": 16}
        ),
        *(f"model.language_model.{BLOCK}", f"model.{BLOCK}", f"language_model.{BLOCK}"),
    ),
    "Qwen2_5_VLForConditionalGeneration": (
        lambda: t.Qwen2_5_VLConfig(
            text_config=TEXT | ENDS | {"rope_parameters": ROPE}, vision_config=QWEN_VISION | {"out_hidden_size": 16}
        ),
        *(f"model.language_model.{BLOCK}", f"model.{BLOCK}"),
    ),
    "LlavaForConditionalGeneration": (
        lambda: t.LlavaConfig(text_config=t.LlamaConfig(**TEXT), vision_config=t.CLIPVisionConfig(**VISION)),
        *(f"model.language_model.{BLOCK}", f"language_model.model.{BLOCK}", f"model.{BLOCK}"),
    ),
    "PaliGemmaForConditionalGeneration": (
        lambda: t.PaliGemmaConfig(
            text_config=TEXT | ENDS | {"model_type": "gemma", "head_dim": 4},
            vision_config=VISION | {"model_type": "siglip_vision_model"},
            projection_dim=16,
        ),
        *(f"model.language_model.{BLOCK}", f"language_model.model.{BLOCK}"),
    ),
    "Idefics3ForConditionalGeneration": (
        lambda: t.Idefics3Config(text_config=t.LlamaConfig(**TEXT, **ENDS), vision_config=VISION, **ENDS),
        *(f"model.text_model.{BLOCK}", f"text_model.{BLOCK}"),
    ),
    "Qwen2MoeForCausalLM": (
        lambda: t.Qwen2MoeConfig(**TEXT, **MOE, shared_expert_intermediate_size=8),
        *(f"model.{BLOCK}", "model.layers.1.mlp.shared_expert_gate", BLOCK),
    ),
    "Qwen3MoeForCausalLM": (lambda: t.Qwen3MoeConfig(**TEXT, **MOE, head_dim=4), f"model.{BLOCK}", BLOCK),
    "MixtralForCausalLM": (lambda: t.MixtralConfig(**TEXT, num_local_experts=2), f"model.{BLOCK}", BLOCK),
}
CASES = [(name, site, is_short) for name, (_, *sites) in MODELS.items() for site in sites for is_short in (False, True)]
EXPERTS = {
    "MixtralForCausalLM": {
        f"block_sparse_moe.experts.{e}.w{w}": (24, 16)[:: -1 if w == 2 else 1] for e in (0, 1) for w in (1, 2, 3)
    },
    **{
        name: {
            f"mlp.experts.{e}.{w}_proj": (8, 16)[:: -1 if w == "down" else 1]
            for e in (0, 1)
            for w in ("gate", "up", "down")
        }
        for name in ("Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM")
    },
}


def write(folder, name):
    config = MODELS[name][0]()
    config.architectures = [name]
    config.save_pretrained(folder)
    return folder


def save(folder, base, shapes, *, is_short=False, task_type=None):
    """An adapter that aims at modules by their last names, or by their whole ones."""
    import json

    rng = torch.Generator().manual_seed(0)
    Lora.from_factors(
        {site: torch.randn(2, size[1], generator=rng) for site, size in shapes.items()},
        {site: torch.randn(size[0], 2, generator=rng) for site, size in shapes.items()},
        base_model_name_or_path=str(base),
        task_type=task_type,
    ).save(folder)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    if is_short:
        config["target_modules"] = sorted({site.rpartition(".")[2] for site in shapes})
    path.write_text(json.dumps(config))


def by_peft(model_class, base, folder):
    """Number of modules that plain PEFT changes in a real model, or its error."""
    from peft import PeftModel

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        model = getattr(t, model_class)(t.AutoConfig.from_pretrained(base))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            merged = PeftModel.from_pretrained(model, folder).merge_and_unload().state_dict()
        except (ValueError, RuntimeError, KeyError) as error:
            return error
    return sum(not torch.equal(merged[name], before[name]) for name in before)


def size_of(base, model_class, site):
    """(out, in) of the linear module whose name ends as a site's does."""
    from loragen.bases.architecture import Architecture

    linear = Architecture.of(str(base)).linear
    ending = ".".join(site.split(".")[-2:])
    found = next(size for name, size in linear.items() if name.endswith(ending))
    return found.out_features, found.in_features


@pytest.mark.parametrize(("name", "site", "is_short"), CASES)
def test_the_verdict_is_what_peft_does(tmp_path, name, site, is_short):
    base = write(tmp_path / "base", name)
    save(tmp_path / "adapter", base, {site: size_of(base, name, site)}, is_short=is_short)
    result = check(tmp_path / "adapter")
    assert result.architecture is not None, result.remark
    met = by_peft(result.architecture.model_class, base, tmp_path / "adapter")
    verdict = result.verdicts[0]
    assert verdict.loads == isinstance(met, int), (met, verdict)
    if verdict.loads:
        assert (met == 0) == bool(verdict.problems), (met, verdict)
        assert (met == 0) == any("leaves out" in problem for problem in verdict.problems)
        assert (met == 0) == any("not in" in fault for fault in result.faults)


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_that_peft_fuses_are_found(tmp_path, name):
    base = write(tmp_path / "base", name)
    shapes = {f"model.layers.{layer}.{site}": size for layer in (0, 1) for site, size in EXPERTS[name].items()}
    save(tmp_path / "adapter", base, shapes, is_short=True)
    result = check(tmp_path / "adapter")
    met = by_peft(name, base, tmp_path / "adapter")
    assert result.verdicts[0].loads == isinstance(met, int), (met, result.verdicts[0])
    if name != "Qwen2MoeForCausalLM":
        assert met == 4  # two tensors a layer
        assert (result.verdicts[0].problems, result.faults) == ((), ())
    else:
        assert met == 0  # PEFT renames the weights, but not the targets of the config
        assert "leaves out all of its sites" in result.verdicts[0].problems[0]
        assert result.faults


def test_a_task_type_without_a_class_is_judged_on_the_class_of_the_config(tmp_path):
    """Qwen2-VL has no causal class; PEFT does not rename its older sites, so that each of them is a no-op."""
    name = "Qwen2VLForConditionalGeneration"
    base = write(tmp_path / "base", name)
    save(tmp_path / "adapter", base, {f"model.{BLOCK}": (16, 16)}, is_short=True, task_type="CAUSAL_LM")
    assert by_peft(name, base, tmp_path / "adapter") == 0
    result = check(tmp_path / "adapter")
    assert result.architecture.model_class == name
    for verdict in result.verdicts[:2]:
        assert "leaves out all of its sites" in " ".join(verdict.problems)
    assert result.faults


@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
@pytest.mark.parametrize("name", ["BertModel", "RobertaModel", "DistilBertModel"])
def test_a_head_that_the_adapter_lacks_is_an_error_of_peft(tmp_path, name, task_type):
    base = write(tmp_path / "base", name)
    site = MODELS[name][2]
    save(tmp_path / "adapter", base, {site: (16, 16)}, task_type=task_type)
    result = check(tmp_path / "adapter")
    assert isinstance(by_peft(result.architecture.model_class, base, tmp_path / "adapter"), KeyError)
    assert not result.verdicts[0].loads
    assert "KeyError" in result.verdicts[0].problems[0]
