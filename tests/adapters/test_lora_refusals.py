"""Adapter folders and factors that are refused, and settings that are ignored."""

import json
import math
import pickle
import struct
from pathlib import Path

import pytest
import torch
from loras import KEY, QUERY, VALUE, factors, make_adapter
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError


@pytest.fixture
def folder(tmp_path):
    make_adapter({QUERY: 2, VALUE: 2}).save(tmp_path / "broken")
    return tmp_path / "broken"


def edit_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder, changes):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path) | changes
    save_file({key: tensor for key, tensor in tensors.items() if tensor is not None}, path)


def refused(folder, *mentions):
    with pytest.raises(AdapterError) as caught:
        Lora.load(folder)
    for mention in (str(folder), *mentions):
        assert mention in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("bias", "all"),
        ("bias", "lora_only"),
        ("use_dora", True),
        ("lora_bias", True),
        ("modules_to_save", ["classifier"]),
        ("trainable_token_indices", [0, 1]),
        ("trainable_token_indices", {"embed_tokens": [0]}),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("megatron_config", {"hidden_size": 8}),
        ("alora_invocation_tokens", [3, 4]),
        ("use_qalora", True),
        ("arrow_config", {}),
        ("use_bdlora", {"nblocks": 2}),
        ("kasa_config", {}),
        ("monteclora_config", {}),
        ("velora_config", {}),
        ("ensure_weight_tying", True),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "of tomorrow"),
        ("use_of_tomorrow", True),
        ("config_of_tomorrow", {"depth": 2}),
        ("target_modules", None),
        ("target_modules", ["query", 3]),
        ("target_modules", {"query": True}),
        ("target_modules", "(query"),
        ("r", 0),
        ("r", -2),
        ("r", True),
        ("r", 2.0),
        ("r", "2"),
        ("lora_alpha", "8"),
        ("lora_alpha", None),
        ("lora_alpha", True),
        ("lora_alpha", math.nan),
        ("lora_alpha", math.inf),
        ("lora_alpha", 10**400),
        ("rank_pattern", {"query": 0}),
        ("rank_pattern", {"query": 2.5}),
        ("rank_pattern", {"(query": 2}),
        ("rank_pattern", ["query"]),
        ("alpha_pattern", {"query": "8"}),
        ("alpha_pattern", {"query": math.nan}),
        ("alpha_pattern", {"*": 8}),
        ("use_rslora", "yes"),
        ("fan_in_fan_out", 1),
        ("task_type", "POETRY"),
        ("base_model_name_or_path", 7),
    ],
    ids=lambda value: str(value)[:30],
)
def test_refuses_settings_by_name(folder, key, value):
    edit_config(folder, **{key: value})
    refused(folder, key, "a number of" if value == 10**400 else str(value).strip("[]")[:15])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_of_tomorrow", False),
        ("config_of_tomorrow", None),
        ("list_of_tomorrow", []),
        ("modules_to_save", []),
        ("megatron_core", "megatron.core"),
        ("qalora_group_size", 16),
        ("lora_dropout", 0.1),
        ("auto_mapping", {"base_model_class": "BertModel"}),
        ("eva_config", {"rho": 2.0}),
        ("init_lora_weights", "Gaussian"),
        ("rank_pattern", None),
    ],
)
def test_settings_without_effect_are_ignored(folder, key, value):
    expected = Lora.load(folder)
    edit_config(folder, **{key: value})
    loaded = Lora.load(folder)
    assert loaded.settings == expected.settings
    assert torch.equal(loaded.delta_weight(QUERY), expected.delta_weight(QUERY))


def key_of(site, factor="A"):
    return f"base_model.model.{site}.lora_{factor}.weight"


@pytest.mark.parametrize(
    ("changes", "mentions"),
    [
        ({key_of(QUERY): None}, [QUERY, "no lora_A"]),
        ({key_of(VALUE, "B"): None}, [VALUE, "no lora_B"]),
        ({key_of(QUERY): torch.ones(3, 6)}, [QUERY, "(3, 6)", "(2, in)"]),
        ({key_of(QUERY): torch.ones(3, 6), key_of(QUERY, "B"): torch.ones(5, 3)}, [QUERY, "(5, 3)", "(out, 2)"]),
        ({key_of(QUERY, "B"): torch.ones(5, 1)}, [QUERY, "(5, 1)"]),
        ({key_of(QUERY): torch.ones(2, 6, 1, 1)}, [QUERY, "lora_A", "(2, 6, 1, 1)"]),
        ({key_of(QUERY): torch.ones(12)}, [QUERY, "lora_A", "(12,)"]),
        ({key_of(QUERY, "B"): torch.ones(0, 2)}, [QUERY, "lora_B", "(0, 2)"]),
        ({key_of(VALUE, "B"): torch.ones(5, 2).int()}, [VALUE, "lora_B", "int32"]),
        ({key_of(VALUE): torch.full((2, 6), math.nan)}, [f"{VALUE}.lora_A", "12 values"]),
        ({key_of(VALUE, "B"): torch.tensor([[1.0, math.inf]] * 5)}, [f"{VALUE}.lora_B", "5 values"]),
        ({key_of(QUERY).replace(".weight", ".default.weight"): torch.ones(2, 6)}, [QUERY, "twice"]),
        ({key_of(QUERY).replace(".weight", ".mine.weight"): torch.ones(2, 6)}, [f"{QUERY}.lora_A.mine.weight"]),
        ({f"{QUERY}.lora_A.weight": torch.ones(2, 6)}, [QUERY, "twice"]),
        ({"base_model.model.classifier.weight": torch.ones(2, 6)}, ["base_model.model.classifier.weight"]),
        ({"base_model.model.embed.lora_embedding_A": torch.ones(2, 6)}, ["embed.lora_embedding_A", "embedding,"]),
        ({f"base_model.model.{QUERY}.lora_magnitude_vector": torch.ones(5)}, ["lora_magnitude_vector", "DoRA"]),
        ({f"base_model.model.{QUERY}.lora_B.bias": torch.ones(5)}, ["lora_B.bias", "lora_bias"]),
        ({key_of(KEY): torch.ones(2, 6), key_of(KEY, "B"): torch.ones(5, 2)}, [KEY, "target_modules"]),
        (dict.fromkeys([key_of(site, f) for site in (QUERY, VALUE) for f in "AB"]), ["no sites"]),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_refuses_tensors_by_name(folder, changes, mentions):
    edit_tensors(folder, changes)
    refused(folder, *mentions)


def header_only(header, size):
    return struct.pack("<Q", len(header)) + header + bytes(size)


ONE = b'"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'


@pytest.mark.parametrize(
    ("content", "mention"),
    [
        (b"", "damaged"),
        (pickle.dumps({key_of(QUERY): [1.0]}), "damaged"),
        (header_only(b"{" + ONE + b"}", 3), "damaged"),
        (header_only(b"{" + ONE + b", " + ONE + b"}", 4), "'a' stands twice"),
        (
            header_only(b"{" + ONE.replace(b"F32", b"F4").replace(b"4]", b"1]").replace(b"[1]", b"[2]") + b"}", 1),
            "'F4'",
        ),
        (header_only(b"{}", 0), "no sites"),
        (None, "no adapter_model.safetensors"),
    ],
    ids=["empty", "pickle", "truncated", "duplicate", "dtype", "no tensors", "missing"],
)
def test_refuses_a_weights_file_that_is_none(folder, content, mention):
    path = folder / "adapter_model.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    refused(folder, "adapter_model.safetensors" if mention != "no sites" else "", mention)


def test_refuses_a_truncated_file(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    refused(folder, "adapter_model.safetensors", "damaged")


def test_never_reads_a_pickle(folder):
    (folder / "adapter_model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (folder / "exploded",))

    torch.save({"a": Bomb()}, folder / "adapter_model.bin")
    refused(folder, "adapter_model.bin", "pickle")
    (folder / "adapter_model.bin").rename(folder / "adapter_model.safetensors")
    refused(folder, "adapter_model.safetensors")
    assert not (folder / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "mention"),
    [
        (b"", "readable JSON"),
        (b"{r: 4}", "readable JSON"),
        (b"\xff\xfe\xff", "readable JSON"),
        (b"[]", "list"),
        (b"{}", "peft_type"),
        (b'{"r": 2, "r": 4}', "'r' stands twice"),
        (None, "no adapter_config.json"),
    ],
    ids=str,
)
def test_refuses_a_config_that_is_none(folder, content, mention):
    path = folder / "adapter_config.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    refused(folder, mention)


def test_refuses_a_folder_that_is_none(tmp_path, folder):
    refused(tmp_path / "nowhere", "no such folder")
    refused(folder / "adapter_config.json", "no such folder")


def test_refuses_factors_that_make_no_adapter():
    with pytest.raises(AdapterError, match="no sites"):
        Lora.from_factors({}, {}, base_model_name_or_path=None)
    lora_A, lora_B = factors({QUERY: 2, VALUE: 2})
    with pytest.raises(AdapterError, match=f"{VALUE} has lora_A but no lora_B"):
        Lora.from_factors(lora_A, {QUERY: lora_B[QUERY]}, base_model_name_or_path=None)
    with pytest.raises(AdapterError, match="lora_alpha is nan"):
        Lora.from_factors(lora_A, lora_B, base_model_name_or_path=None, scaling=math.nan)


def test_a_weight_too_large_for_float32_is_refused():
    """Its update would have an infinite norm."""
    factors = {"a": torch.full((2, 3), 1e300, dtype=torch.float64)}, {"a": torch.ones(4, 2)}
    with pytest.raises(AdapterError, match=r"a\.lora_A holds 6 values that are not finite in float32"):
        Lora.from_factors(*factors, base_model_name_or_path="tiny")


def test_an_empty_name_of_the_base_is_none():
    """And not the folder that a command runs in."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["a"], "base_model_name_or_path": ""}
    assert LoraSettings.from_config(config).base_model_name_or_path is None
