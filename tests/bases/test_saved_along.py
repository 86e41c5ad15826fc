"""Weights of the base that PEFT saves along: left out where they are the base's own, refused where they are not."""

import warnings

import pytest
import torch
from families import write_base
from safetensors.torch import load_file, save_file

import loragen
from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError

HEAD, EMBEDDING = "base_model.model.lm_head.base_layer.weight", "base_model.model.model.embed_tokens.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_base(tmp_path_factory.mktemp("saved") / "llama", "llama")


@pytest.fixture
def folder(base, tmp_path):
    """An adapter of the head, which PEFT saves with the head's own weight and the embedding's."""
    import transformers
    from peft import LoraConfig, get_peft_model

    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        config = LoraConfig(
            r=2, target_modules=["lm_head", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM",
            base_model_name_or_path=str(base),
        )  # fmt: skip
        get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def edit(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({key: change(key, tensor).contiguous() for key, tensor in load_file(path).items()}, path)


def is_along(key):
    return key in (HEAD, EMBEDDING)


def test_peft_saves_the_head_along(folder):
    assert HEAD in load_file(folder / "adapter_model.safetensors")
    lora = Lora.load(folder)
    assert lora.origin.saved_along.keys() >= {"lm_head.weight"}
    assert "lm_head" in lora.sites


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_weights_equal_to_the_bases_change_nothing(folder, dtype):
    """A base may have been loaded in fewer bits than it is kept in."""
    edit(folder, lambda key, tensor: tensor.to(dtype) if is_along(key) else tensor)
    adapter = loragen.Adapter.load(folder)
    assert not any("could not be compared" in note for note in adapter.notes)
    assert loragen.check(folder).faults == ()
    by_hand = Lora.load(folder)
    assert all(torch.equal(by_hand.delta_weight(site), adapter.lora.delta_weight(site)) for site in by_hand.sites)


@pytest.mark.parametrize("key", [HEAD, EMBEDDING])
def test_weights_other_than_the_bases_are_refused(base, folder, key):
    path = folder / "adapter_model.safetensors"
    name = "lm_head.weight" if key == HEAD else "model.embed_tokens.weight"
    (kept,) = base.glob("*.safetensors")
    weight = load_file(kept)["model.embed_tokens.weight"] + 1
    save_file(load_file(path) | {key: weight}, path)
    with pytest.raises(AdapterError, match=rf"brings a {name} that is not that of the base.*--base"):
        loragen.Adapter.load(folder)
    assert any(name in fault for fault in loragen.check(folder).faults)


def test_a_resized_vocabulary_is_named(folder):
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {EMBEDDING: torch.ones(70, 16)}, path)
    with pytest.raises(AdapterError, match=r"shape \(70, 16\).*resized"):
        loragen.Adapter.load(folder)


def test_weights_that_cannot_be_compared_are_remarked_on(folder):
    adapter = loragen.Adapter.load(folder, base="nobody/nothing")
    assert any("could not be compared" in note for note in adapter.notes)


def test_a_weight_that_the_base_does_not_have_is_remarked_on(folder):
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.else.base_layer.weight": torch.ones(2)}, path)
    assert any("else.weight could not be compared" in note for note in loragen.Adapter.load(folder).notes)


def test_other_whole_weights_are_refused(folder):
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path) | {"base_model.model.model.norm.weight": torch.ones(16)}, path)
    with pytest.raises(AdapterError, match=r"norm\.weight: a whole weight"):
        Lora.load(folder)
