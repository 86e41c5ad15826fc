"""Weights in several files, and in 8 bits."""

import json
import shutil

import pytest
import torch
from loras import QUERY, VALUE, make_adapter
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    make_adapter().save(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(folder, *mentions):
    with pytest.raises(AdapterError) as caught:
        Lora.load(folder)
    for mention in mentions:
        assert mention in str(caught.value)


@pytest.fixture
def sharded(folder):
    tensors = load_file(folder / WEIGHTS)
    names = [f"adapter_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    placed = {key: names[place % 2] for place, key in enumerate(sorted(tensors))}
    for name in names:
        save_file({key: tensor for key, tensor in tensors.items() if placed[key] == name}, folder / name)
    (folder / WEIGHTS).unlink()
    write_index(folder, placed)
    return folder, placed


def write_index(folder, placed):
    index = {"metadata": {"total_size": 1}, "weight_map": placed}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def test_shards_are_read_as_one(sharded):
    loaded = Lora.load(sharded[0])
    assert loaded.sites == (QUERY, VALUE)
    assert all(torch.equal(loaded.delta_weight(site), make_adapter().delta_weight(site)) for site in loaded.sites)
    assert loaded.origin.is_rewritten


@pytest.mark.parametrize("name", ["../adapter/x.safetensors", "/etc/passwd", "a\\b.safetensors", ".safetensors", 3, ""])
def test_an_index_that_points_elsewhere_is_refused(sharded, name):
    folder, placed = sharded
    write_index(folder, placed | {min(placed): name})
    refused(folder, "index.json places", "plain name")


def test_an_index_that_disagrees_with_its_shards_is_refused(sharded):
    folder, placed = sharded
    write_index(folder, {key: name for key, name in placed.items() if key != min(placed)})
    refused(folder, "disagree")
    write_index(folder, placed | {"more": placed[min(placed)]})
    refused(folder, "disagree", "'more'")
    write_index(folder, {})
    refused(folder, "no weight_map")
    write_index(folder, placed)
    shutil.copy(folder / placed[max(placed)], folder / placed[min(placed)])
    refused(folder, "disagree")
    (folder / placed[max(placed)]).unlink()
    refused(folder, "disagree" if placed[max(placed)] > placed[min(placed)] else "missing")


def test_a_missing_shard_is_named(sharded):
    folder, placed = sharded
    (folder / placed[min(placed)]).unlink()
    refused(folder, f"the shard {placed[min(placed)]}", "missing")


# --- 8 bits ---


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_8_bits_are_read_as_peft_reads_them(tmp_path, dtype):
    from models import tiny_bert
    from peft import PeftModel

    from loragen.adapters.settings import LoraSettings

    rng = torch.Generator().manual_seed(0)
    factors = [{site: torch.randn(shape, generator=rng) for site in (QUERY, VALUE)} for shape in ((2, 16), (16, 2))]
    Lora(LoraSettings(r=2, lora_alpha=4, target_modules=(QUERY, VALUE)), *factors).save(tmp_path)
    path = tmp_path / WEIGHTS
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)

    loaded = Lora.load(tmp_path)
    assert any("float8" in note for note in loaded.origin.notes)
    model = PeftModel.from_pretrained(tiny_bert(), tmp_path)
    for site in (QUERY, VALUE):
        by_peft = model.base_model.model.get_submodule(site).get_delta_weight("default").detach()
        torch.testing.assert_close(loaded.weight_update(site), by_peft)


def test_tensors_of_other_types_are_refused(folder):
    tensors = load_file(folder / WEIGHTS)
    save_file({key: tensor.to(torch.complex64) for key, tensor in tensors.items()}, folder / WEIGHTS)
    refused(folder, "complex64")
