"""Folders as people bring them: taken with a remark, or called by their names with the way out."""

import json
import os

import pytest
import torch
from loras import QUERY, make_adapter
from safetensors.torch import save_file

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1234567\n"
PAGE = b"<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


@pytest.fixture
def folder(tmp_path):
    make_adapter().save(tmp_path / "adapter")
    return tmp_path / "adapter"


def refused(folder, *mentions):
    with pytest.raises(AdapterError) as caught:
        Lora.load(folder)
    for mention in mentions:
        assert mention in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def edit_config(folder, **changes):
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def same(one, other):
    assert one.sites == other.sites
    assert all(torch.equal(one.delta_weight(site), other.delta_weight(site)) for site in one.sites)


# --- files that are others ---


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize(
    ("content", "mentions"),
    [
        (LFS, ["git-LFS pointer", "run git lfs pull"]),
        (PAGE, ["web page", "fetch"]),
        (b"  \n<html lang='en'>", ["web page"]),
        (b"", ["it is empty"]),
        (bytes(5000), ["zeros alone"]),
        (b"PK\x03\x04" + bytes(100), ["zip archive"]),
        (b"GGUF\x03\0\0\0" + bytes(100), ["GGUF"]),
    ],
    ids=["lfs", "page", "page without doctype", "empty", "zeros", "zip", "gguf"],
)
def test_what_stands_in_place_of_a_file_is_named(folder, name, content, mentions):
    (folder / name).write_bytes(content)
    refused(folder, name, *mentions)


def test_a_file_that_is_cut_off_says_how_far_it_goes(folder):
    path = folder / WEIGHTS
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused(folder, WEIGHTS, "cut off", f"{len(whole) - 10:,}", f"{len(whole):,}")
    path.write_bytes(whole[:100])
    refused(folder, WEIGHTS, "cut off", "it has 100 bytes")


@pytest.mark.parametrize("length", [0x1F8B, 0x4850, 0x0280, 0x0480])
def test_the_length_of_a_header_is_not_taken_for_another_kind_of_file(folder, length):
    """The first bytes of a weights file are a length, which may look like the beginning of a pickle or an archive."""
    path = folder / WEIGHTS
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    padded = data[8 : 8 + size] + b" " * (length - size)
    path.write_bytes(length.to_bytes(8, "little") + padded + data[8 + size :])
    same(Lora.load(folder), make_adapter())


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["loop", "dangling", "pipe", "folder", "device", "memory"])
def test_what_is_no_regular_file_is_one_line(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"loop": path, "dangling": "gone", "device": "/dev/zero", "memory": "/proc/self/mem"}[kind])
    refused(folder, name)


def test_files_beyond_the_caps_are_not_read(folder):
    (folder / CONFIG).write_bytes(b" " * 1_000_001)
    refused(folder, CONFIG, "1,000,001 bytes", "no adapter has over 1,000,000")
    with (folder / CONFIG).open("wb") as file:
        file.truncate(200 * 1024**3)
    refused(folder, CONFIG, "no adapter has over 1,000,000")
    make_adapter().save(folder)
    with (folder / WEIGHTS).open("wb") as file:
        file.truncate(200 * 1024**3)
    refused(folder, WEIGHTS, "214,748,364,800 bytes", "no adapter has over 17,179,869,184")


def header_of(header, size=0):
    data = json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data + bytes(size)


def test_a_header_beyond_the_caps_is_not_read(folder):
    (folder / WEIGHTS).write_bytes((2**40).to_bytes(8, "little") + b"{}")
    refused(folder, WEIGHTS, "1,099,511,627,776 bytes")
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    (folder / WEIGHTS).write_bytes(header_of({f"t{i}": entry for i in range(100_001)}))
    refused(folder, WEIGHTS, "100,001 tensors")


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"a":' * 900 + b"1" + b"}" * 900,
        b'{"r": ' + b"9" * 5000 + b"}",
        b'{"peft_type": "LORA", "r": ' + b"9" * 4000 + b"}",
        b'{"a": 1, ' * 3000,
    ],
    ids=["brackets", "nesting", "digits", "a rank of 4,000 digits", "cut off"],
)
def test_json_that_is_too_much_is_one_line(folder, content):
    (folder / CONFIG).write_bytes(content)
    refused(folder, str(folder))


@pytest.mark.parametrize("value", ["a\0b", "\ud800", "x" * 10_000])
@pytest.mark.parametrize("key", ["base_model_name_or_path", "revision", "target_modules"])
def test_names_that_no_system_takes_are_refused(folder, key, value):
    edit_config(folder, **{key: [value] if key == "target_modules" else value})
    refused(folder, key)


@pytest.mark.parametrize("rank", [65_537, 10**12, 10**300])
def test_ranks_beyond_all_sense_are_refused(folder, rank):
    edit_config(folder, r=rank)
    refused(folder, "r is", "65536")


def test_an_alpha_that_overflows_the_update_is_refused(folder):
    edit_config(folder, lora_alpha=1e300)
    refused(folder, "overflows float32")


def test_slow_patterns_are_given_up_as_a_whole(folder, monkeypatch):
    monkeypatch.setattr("loragen.adapters.settings.PATTERN_SECONDS", 0.0)
    edit_config(folder, target_modules=".*(query|value)")
    refused(folder, "patterns take over")


def test_many_names_and_many_sites_take_no_time(tmp_path):
    sites = [f"layers.{i}.q_proj" for i in range(2000)]
    lora = Lora.from_factors(
        {site: torch.ones(1, 2) for site in sites},
        {site: torch.ones(2, 1) for site in sites},
        base_model_name_or_path=None,
    )
    lora.save(tmp_path / "many")
    edit_config(tmp_path / "many", target_modules=[f"{i}.k_proj" for i in range(50_000)] + ["q_proj"])
    assert len(Lora.load(tmp_path / "many").sites) == 2000


@pytest.mark.parametrize("key", ["x" * 5000, "a\x1b[2Jb", "a\nb", "a\u202eb"])
def test_names_of_tensors_that_cannot_be_shown_are_refused(folder, key):
    save_file({f"base_model.model.{key}.lora_A.weight": torch.ones(2, 6)}, folder / WEIGHTS)
    refused(folder, "at most 500 characters")


# --- configs and folders that are none of an adapter ---


@pytest.mark.parametrize(
    ("config", "mentions"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, ["whole model", "model_type='llama'"]),
        ({"hidden_size": 16, "vocab_size": 64}, ["whole model"]),
        ({"_class_name": "UNet2DConditionModel"}, ["whole model"]),
        ({"config": {"r": 8}, "hidden_size": 768, "model_class": "BertAdapterModel"}, ["AdapterHub"]),
        ({"peft_type": "IA3"}, ["peft_type='IA3'", "scales outputs", "merge_and_unload"]),
        ({"peft_type": "PREFIX_TUNING"}, ["PREFIX_TUNING", "prefix"]),
        ({"peft_type": "LOHA"}, ["LoHa"]),
        ({"peft_type": ["LORA"]}, ["peft_type=['LORA']"]),
        ({}, ["peft_type"]),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_a_config_of_another_kind_is_named(folder, config, mentions):
    (folder / CONFIG).write_text(json.dumps(config))
    refused(folder, *mentions)


@pytest.mark.parametrize(
    ("names", "mentions"),
    [
        (["config.json", "model.safetensors"], ["whole model", "--base"]),
        (["config.json", "model-00001-of-00002.safetensors"], ["whole model"]),
        (["modules.json"], ["whole model"]),
        (["zoo.yaml"], ["it is a zoo", "experts/"]),
        (["generator.yaml", "generator.safetensors"], ["it is a generator", "loragen generate"]),
        (["model_index.json"], ["diffusers"]),
        (["pytorch_lora_weights.safetensors"], ["diffusers"]),
        (["adapters.npz"], ["MLX"]),
        (["my-style.safetensors"], ["'my-style.safetensors'", "image models"]),
        (["llama.Q4.gguf"], ["GGUF"]),
        (["adapter_model.safetensors"], ["no adapter_config.json beside adapter_model.safetensors"]),
        (["notes.txt"], ["no adapter_config.json", "save_pretrained"]),
        ([], ["it is empty"]),
    ],
    ids=str,
)
def test_a_folder_of_another_kind_is_named(tmp_path, names, mentions):
    (tmp_path / "other").mkdir()
    for name in names:
        (tmp_path / "other" / name).write_bytes(b"{}")
    refused(tmp_path / "other", *mentions)


def test_a_file_in_place_of_a_folder_names_its_folder(folder):
    refused(folder / WEIGHTS, "it is a file", str(folder))


def test_the_weights_that_are_there_instead_are_named(folder):
    (folder / WEIGHTS).rename(folder / "my.safetensors")
    refused(folder, "no adapter_model.safetensors but 'my.safetensors'")
    (folder / "my.safetensors").rename(folder / "adapter_model-00001-of-00001.safetensors")
    refused(folder, "shards", "adapter_model.safetensors.index.json")


# --- adapters inside ---


@pytest.mark.parametrize("inner", ["default", "checkpoint-500", "snapshots/8f3c"])
def test_the_only_adapter_in_a_folder_is_taken(tmp_path, inner):
    make_adapter().save(tmp_path / "run" / inner)
    (tmp_path / "run" / ".cache").mkdir()
    loaded = Lora.load(tmp_path / "run")
    same(loaded, make_adapter())
    assert any(f"taken from {inner} in run" in note for note in loaded.origin.notes)


def test_an_adapter_at_the_top_is_the_one_that_peft_reads(tmp_path):
    other = make_adapter({QUERY: 1})
    make_adapter().save(tmp_path / "run")
    other.save(tmp_path / "run" / "checkpoint-5")
    same(Lora.load(tmp_path / "run"), make_adapter())


@pytest.mark.parametrize(
    ("names", "newest"),
    [
        (["checkpoint-1000", "checkpoint-500", "checkpoint-90"], "checkpoint-1000"),
        (["sample-0", "sample-1", "default"], "sample-1"),
    ],
)
def test_several_adapters_in_a_folder_are_listed(tmp_path, names, newest):
    for place, name in enumerate(names):
        make_adapter().save(tmp_path / "run" / name)
        os.utime(tmp_path / "run" / name / CONFIG, (place, place if name != newest else 99))
    refused(tmp_path / "run", "it holds 3 adapters", *names, f"The newest is {tmp_path / 'run' / newest}")


def test_a_folder_of_very_many_entries_is_looked_at_for_a_while_only(tmp_path):
    for i in range(1500):
        (tmp_path / f"file{i}").touch()
    refused(tmp_path, "no adapter_config.json")
