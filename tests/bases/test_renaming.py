"""Adapters with the names of an earlier transformers are used, merged and combined under those of the installed one."""

import json

import pytest
import torch

import loragen
from loragen.adapters.adapter import Lora
from loragen.bases.architecture import Architecture
from loragen.bases.renaming import fused, moved, names_in, relabelled, renamed
from loragen.errors import AdapterError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = TOWER | {"vocab_size": 64, "num_key_value_heads": 2, "head_dim": 4}
VISION = TOWER | {"image_size": 16, "patch_size": 8}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 0], "rope_theta": 1e4}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}
QWEN_VISION = {"depth": 1, "num_heads": 4, "patch_size": 4, "intermediate_size": 24, "hidden_size": 16}
Q = "layers.{}.self_attn.q_proj"


def model(name):
    """A tiny random vision-language or mixture-of-experts model."""
    import transformers as t

    clip = t.CLIPVisionConfig(**VISION)
    tokens = {"mm_tokens_per_image": 4, "image_token_index": 60, "boi_token_index": 61, "eoi_token_index": 62}
    qwen = {"text_config": TOWER | ENDS | {"vocab_size": 64, "num_key_value_heads": 2, "rope_parameters": ROPE}}
    build = {
        "Gemma3": lambda: t.Gemma3ForConditionalGeneration(
            t.Gemma3Config(text_config=TEXT | ENDS, vision_config=VISION, **tokens)
        ),
        "Llava": lambda: t.LlavaForConditionalGeneration(
            t.LlavaConfig(text_config=t.LlamaConfig(**TEXT), vision_config=clip)
        ),
        "Qwen2VL": lambda: t.Qwen2VLForConditionalGeneration(
            t.Qwen2VLConfig(**qwen, vision_config=QWEN_VISION | {"embed_dim": 16})
        ),
        "Qwen2_5_VL": lambda: t.Qwen2_5_VLForConditionalGeneration(
            t.Qwen2_5_VLConfig(**qwen, vision_config=QWEN_VISION | {"out_hidden_size": 16})
        ),
        "PaliGemma": lambda: t.PaliGemmaForConditionalGeneration(
            t.PaliGemmaConfig(
                text_config=TEXT | ENDS | {"model_type": "gemma"},
                vision_config=VISION | {"model_type": "siglip_vision_model"},
                projection_dim=16,
            )
        ),
        "Mixtral": lambda: t.MixtralForCausalLM(t.MixtralConfig(**TEXT, num_local_experts=2)),
        "Qwen2Moe": lambda: t.Qwen2MoeForCausalLM(
            t.Qwen2MoeConfig(
                **TOWER, vocab_size=64, num_experts=2, moe_intermediate_size=8, shared_expert_intermediate_size=8
            )
        ),
    }[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


# An older name of a site, its new one, and whether the installed PEFT renames it as it loads an adapter.
RENAMED = {
    "Gemma3": (f"language_model.model.{Q}", f"model.language_model.{Q}"),
    "Llava": (f"language_model.model.{Q}", f"model.language_model.{Q}"),
    "PaliGemma": (f"language_model.model.{Q}", f"model.language_model.{Q}"),
    "Qwen2VL": (f"model.{Q}", f"model.language_model.{Q}"),
    "Qwen2_5_VL": (f"model.{Q}", f"model.language_model.{Q}"),
}


def adapter(*sites, base="tiny", task_type=None, seed=0, **options):
    rng = torch.Generator().manual_seed(seed)
    a = {site: torch.randn(2, 16, generator=rng) for site in sites}
    b = {site: torch.randn(16, 2, generator=rng) for site in sites}
    return Lora.from_factors(a, b, base_model_name_or_path=str(base), task_type=task_type, **options)


def by_peft(folder, base):
    """The delta weights that PEFT adds to a model, by the module's name."""
    from peft import PeftModel

    found = PeftModel.from_pretrained(base, folder)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default")
        for name, module in found.named_modules()
        if hasattr(module, "get_delta_weight") and module.get_delta_weight("default").norm() > 1e-6
    }


@pytest.mark.parametrize("name", RENAMED)
def test_older_names_become_those_of_the_installed_transformers(name):
    old, new = (pattern.format(1) for pattern in RENAMED[name])
    met = model(name)
    assert names_in(met, [old, new, "no.such.site"]) == {old: new, new: new, "no.such.site": "no.such.site"}


@pytest.mark.parametrize("name", ["Gemma3", "Llava", "PaliGemma"])
@pytest.mark.filterwarnings("ignore:Found missing adapter keys:UserWarning")
def test_the_names_are_those_that_peft_finds_itself(tmp_path, name):
    old, new = (pattern.format(1) for pattern in RENAMED[name])
    adapter(old).save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"target_modules": ["q_proj"]}))
    assert by_peft(tmp_path, model(name)).keys() == {new}


@pytest.mark.parametrize("name", RENAMED)
def test_what_combine_writes_is_loaded_whole_by_peft(tmp_path, name):
    """Older and newer names go together: they are one site."""
    model(name).save_pretrained(tmp_path / "base")
    old, new = RENAMED[name]
    parts = {"a": adapter(old.format(0), old.format(1), base=tmp_path / "base", task_type="CAUSAL_LM")}
    parts["b"] = adapter(new.format(1), base=tmp_path / "base", task_type="CAUSAL_LM", seed=1)
    for part, lora in parts.items():
        lora.save(tmp_path / part)
    loragen.combine([tmp_path / part for part in parts], [0.5, 2.0]).adapter.save(tmp_path / "both")
    deltas = by_peft(tmp_path / "both", model(name))
    assert deltas.keys() == {new.format(0), new.format(1)}
    wanted = 0.5 * parts["a"].delta_weight(old.format(1)) + 2 * parts["b"].delta_weight(new.format(1))
    torch.testing.assert_close(deltas[new.format(1)], wanted, atol=1e-4, rtol=1e-4)


def test_a_merged_model_of_older_names_is_the_one_of_newer_names(tmp_path):
    import transformers

    model("Gemma3").save_pretrained(tmp_path / "base")
    old, new = (pattern.format(1) for pattern in RENAMED["Gemma3"])
    for folder, site in (("old", old), ("new", new)):
        adapter(site, base=tmp_path / "base", task_type="CAUSAL_LM").save(tmp_path / folder)
        loragen.Adapter.load(tmp_path / folder).merge(tmp_path / f"{folder}-merged")
    met, wanted = (
        transformers.Gemma3ForConditionalGeneration.from_pretrained(tmp_path / f"{folder}-merged").state_dict()
        for folder in ("old", "new")
    )
    assert met.keys() == wanted.keys()
    assert all(torch.equal(met[name], wanted[name]) for name in met)
    bare = model("Gemma3").state_dict()[f"{new}.weight"]
    torch.testing.assert_close(met[f"{new}.weight"], bare + adapter(new).delta_weight(new))


@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("Mixtral", [f"model.layers.0.block_sparse_moe.experts.{e}.w{w}" for e in (0, 1) for w in (1, 2, 3)]),
        ("Qwen2Moe", [f"model.layers.0.mlp.experts.{e}.{w}_proj" for e in (0, 1) for w in ("up", "gate", "down")]),
    ],
)
def test_experts_that_are_fused_are_refused_by_name(tmp_path, name, sites):
    model(name).save_pretrained(tmp_path / "base")
    one = adapter(*sites, base=tmp_path / "base", task_type="CAUSAL_LM")
    base = Architecture.of(str(tmp_path / "base"))
    assert set(fused(one, base)) == set(sites)
    with pytest.raises(AdapterError, match=r"together with others in one tensor.*use the adapter with PEFT"):
        renamed(one, base)
    one.save(tmp_path / "one")
    with pytest.raises(AdapterError, match="together with others in one tensor"):
        loragen.combine([tmp_path / "one"])


def test_a_relabelled_adapter_has_the_same_updates():
    first, second = "layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"
    one = adapter(first, second, scaling=0.7)
    uneven = loragen.adapters.combine.combined(
        [one, adapter(second, seed=1)], [1.0, 1.0], rng=torch.Generator()
    ).adapter
    names = {site: f"model.{site}" for site in uneven.sites}
    met = relabelled(uneven, names)
    assert met.sites == tuple(names.values())
    for site in uneven.sites:
        torch.testing.assert_close(met.delta_weight(names[site]), uneven.delta_weight(site))
    assert relabelled(uneven, {site: site for site in uneven.sites}) is uneven


def test_an_adapter_moves_between_the_classes_of_a_model(tmp_path):
    from models import tiny_bert

    tiny_bert().save_pretrained(tmp_path)
    inner = Architecture.of(str(tmp_path))
    headed = Architecture.of(str(tmp_path), "SEQ_CLS")
    query = "encoder.layer.0.attention.self.query"
    assert moved(adapter(query), headed).sites == (f"bert.{query}",)
    assert moved(adapter(f"bert.{query}"), inner).sites == (query,)
    assert moved(adapter(f"roberta.{query}.x"), inner) is None
