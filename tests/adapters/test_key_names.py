"""Names of tensors as tools write them: renamed by one table, and never read otherwise than PEFT reads them."""

import re
import warnings

import pytest
import torch
from loras import KEY, QUERY, VALUE, make_adapter
from models import tiny_bert
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError

PREFIX = "base_model.model."
SIZES = {site: (16, 16) for site in (QUERY, KEY, VALUE)}


def fitting(sites=(QUERY, VALUE)):
    rng = torch.Generator().manual_seed(0)
    settings = LoraSettings(r=2, lora_alpha=4, target_modules=("query", "key", "value"))
    return Lora(
        settings,
        {site: torch.randn(2, 16, generator=rng) for site in sites},
        {site: torch.randn(16, 2, generator=rng) for site in sites},
    )


def rename(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({change(key): tensor for key, tensor in load_file(path).items()}, path)


def unprefixed(key):
    return key.removeprefix(PREFIX)


def named(name):
    return lambda key: re.sub(r"\.weight$", f".{name}.weight", key)


CHANGES = {
    "torch.compile, outside": (lambda key: f"_orig_mod.{key}", "'_orig_mod' taken out (4 times)"),
    "torch.compile, inside": (lambda key: PREFIX + "_orig_mod." + unprefixed(key), "'_orig_mod' taken out"),
    "torch.compile, each layer": (lambda key: key.replace("layer.0.", "layer.0._orig_mod."), "'_orig_mod' taken out"),
    "torch.compile, prefix gone": (lambda key: "_orig_mod." + unprefixed(key), "put in front"),
    "DDP, outside": (lambda key: f"module.{key}", "'module' taken off (4 times)"),
    "DDP, inside": (lambda key: f"{PREFIX}module.{unprefixed(key)}", "'module' taken out (4 times)"),
    "DDP, prefix gone": (lambda key: f"module.{unprefixed(key)}", "'base_model.model' put in front (4 times)"),
    "DDP of torch.compile": (lambda key: f"module._orig_mod.{key}", "'_orig_mod' taken out (4 times), 'module' taken"),
    "FSDP": (
        lambda key: "_fsdp_wrapped_module." + key.replace("layer.0.", "layer.0._fsdp_wrapped_module."),
        "'_fsdp_wrapped_module' taken out (8 times)",
    ),
    "checkpointing": (
        lambda key: key.replace("layer.0.", "layer.0._checkpoint_wrapped_module."),
        "_checkpoint_wrapped",
    ),
    "a trainer's model": (lambda key: f"model.{key}", "'model' taken off (4 times)"),
    "TRL's value head": (lambda key: f"pretrained_model.{key}", "'pretrained_model' taken off"),
    "wrapped twice": (lambda key: PREFIX + key, "'base_model.model' taken off once (4 times)"),
    "no prefix": (unprefixed, "'base_model.model' put in front (4 times)"),
    "the adapter's name": (named("my_name"), "the adapter's name 'my_name' taken out (4 times)"),
    "a name with a number": (named("adapter_0"), "the adapter's name 'adapter_0' taken out"),
    "a name and no prefix": (lambda key: unprefixed(named("mine")(key)), "'mine' taken out"),
    "all of it": (lambda key: f"module._orig_mod.{named('mine')(key)}", "'mine' taken out"),
}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES)
def test_names_are_read_as_those_that_peft_writes(tmp_path, change, told):
    wanted = fitting()
    wanted.save(tmp_path)
    rename(tmp_path, change)
    loaded = Lora.load(tmp_path)
    assert loaded.sites == wanted.sites
    assert all(torch.equal(loaded.delta_weight(site), wanted.delta_weight(site)) for site in wanted.sites)
    (note,) = loaded.origin.notes
    assert note.startswith("keys renamed: ")
    assert told in note
    assert f"is read as {PREFIX}{QUERY}.lora_A.weight" in note
    assert loaded.origin.is_rewritten


def by_peft(folder, sites):
    """Delta weights as PEFT loads them; those that it leaves as they were made are zero."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(tiny_bert(), folder)
    return {site: model.base_model.model.get_submodule(site).get_delta_weight("default").detach() for site in sites}


@pytest.mark.parametrize("change", [lambda key: key, named("default"), *(change for change, _ in CHANGES.values())])
def test_what_peft_loads_is_never_read_otherwise(tmp_path, change):
    fitting().save(tmp_path)
    rename(tmp_path, change)
    loaded = Lora.load(tmp_path)
    for site, delta in by_peft(tmp_path, loaded.sites).items():
        if delta.any():
            torch.testing.assert_close(loaded.weight_update(site), delta)
    assert loaded.origin.is_rewritten == (not delta.any())


def test_names_of_peft_itself_are_not_remarked_on(tmp_path):
    fitting().save(tmp_path)
    rename(tmp_path, named("default"))
    loaded = Lora.load(tmp_path)
    assert loaded.origin.notes == ()
    assert not loaded.origin.is_rewritten


def refused(folder, *mentions):
    with pytest.raises(AdapterError) as caught:
        Lora.load(folder)
    for mention in mentions:
        assert mention in str(caught.value)


@pytest.mark.parametrize("names", [("first", "second"), ("", "second"), ("default", "second")])
def test_two_adapters_in_one_file_are_named(tmp_path, names):
    make_adapter().save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    both = {
        key.replace(".weight", f".{name}.weight" if name else ".weight"): tensor.clone()
        for key, tensor in tensors.items()
        for name in names
    }
    save_file(both, path)
    refused(tmp_path, "2 adapters in one", repr(names[0] or "default"), "'second'", "selected_adapters")


def test_two_names_for_one_tensor_are_refused(tmp_path):
    make_adapter().save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {f"module.{key}": tensor.clone() for key, tensor in tensors.items()}, path)
    refused(tmp_path, "twice")


@pytest.mark.parametrize(
    ("key", "mentions"),
    [
        ("lora_unet_down_blocks_0_attentions_0_to_q.lora_down.weight", ["kohya", "diffusers"]),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", ["kohya"]),
        ("lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", ["kohya"]),
        ("model.layers.0.q_proj.alpha", ["kohya"]),
        ("unet.down_blocks.0.attn1.to_q.lora.down.weight", ["diffusers"]),
        ("text_encoder.layers.0.q_proj.lora_linear_layer.up.weight", ["diffusers"]),
        ("model.layers.0.q_proj.hada_w1_a", ["LyCORIS"]),
        ("model.layers.0.q_proj.lokr_w1", ["LyCORIS"]),
        ("base_model.model.layers.0.k_proj.ia3_l", ["IA³"]),
        ("prompt_embeddings", ["prompt"]),
        ("base_model.model.layers.0.q_proj.lora_E", ["AdaLoRA"]),
        ("base_model.model.layers.0.q_proj.vera_lambda_b", ["another method"]),
        ("base_model.model.layers.0.q_proj.oft_R", ["OFT"]),
        ("roberta.encoder.layer.0.attention.self.query.loras.mine.lora_A", ["AdapterHub"]),
        ("model.layers.0.self_attn.q_proj.lora_a", ["MLX"]),
        ("layers.0.attn.q_proj.lora_a.weight", ["torchtune"]),
        ("encoder.layer.0.query.lora_A", ["loralib"]),
        ("base_model.model.layers.0.q_proj.lora_A.weight_scale", ["quantised"]),
        (f"{PREFIX}{QUERY}.lora_B.mine.bias", ["lora_bias"]),
        (f"{PREFIX}classifier.weight", ["a whole weight"]),
        ("something", ["no LoRA factor"]),
        (f"{PREFIX}.lora_A.weight", ["holds"]),
        (f"{PREFIX}a..b.lora_A.weight", ["names no module"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_names_of_other_kinds_are_called_by_what_they_are(tmp_path, key, mentions):
    make_adapter().save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path) | {key: torch.ones(2, 6)}, path)
    refused(tmp_path, key, *mentions)


def test_a_number_of_many_digits_in_a_name_is_no_traceback(tmp_path):
    make_adapter().save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    save_file(load_file(path) | {f"{PREFIX}layer.{'9' * 450}.lora_A.weight": torch.ones(2, 6)}, path)
    refused(tmp_path, "no lora_B")
