"""Adapter folders: sound ones of all the forms that PEFT writes, and what becomes of them when they are mutated."""

import json
import struct
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from hypothesis import strategies as st
from torch import Tensor

from fuzz.files import Mutant
from fuzz.mutations import as_json, mutated_bytes, mutated_tree
from fuzz.peft_oracle import written_by_peft
from fuzz.plain import SHAPES

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SITES = sorted(SHAPES)
KEYS = (
    *("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "modules_to_save", "exclude_modules", "lora_bias"),
    *("layers_to_transform", "layers_pattern", "target_parameters", "revision", "bias", "init_lora_weights"),
)
PATTERNS = (
    "q",
    "v",
    "attn.q",
    "layers.0.attn.q",
    "^layers.0",
    "layers.1",
    ".*q",
    "q|v",
    "layers.1.*",
    "(q)",
    "up",
    "up$",
)
NAMES = ("q", "v", "up", "attn.q", "layers.0.attn.q", "layers.1.mlp.up", "layers.10.attn.q", "attn", "mlp.up")
FOREIGN = (
    *("lora_embedding_A", "lora_magnitude_vector", "lora_B.bias", "lora_A.default.weight", "lora_A.mine.weight"),
    *("lora_A.weight", "lora_B.default.weight", "lora_A.weight.weight", "base_layer.weight", "weight", ""),
)


def targets() -> st.SearchStrategy[Any]:
    """All forms of ``target_modules``."""
    listed = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4)
    expressions = st.sampled_from(
        [r".*\.(q|v|up)", r"layers\.\d+\.attn\.q", ".*", "all-linear", "ALL-LINEAR", ".*q", "q"]
    )
    return st.just(["q", "v", "up"]) | listed | expressions


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    """An ``adapter_config.json`` that PEFT takes, whatever it means."""
    ranks = st.dictionaries(st.sampled_from(PATTERNS), st.integers(1, 3), max_size=3)
    alphas = st.dictionaries(st.sampled_from(PATTERNS), st.sampled_from([0, 1, 3, 0.5, -2, 16]), max_size=3)
    optional = {
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "use_rslora": st.booleans(),
        "fan_in_fan_out": st.booleans(),
        "init_lora_weights": st.sampled_from([True, False, "gaussian"]),
        "exclude_modules": st.sampled_from([None, "q", ["q"], ["layers.0.attn.q"], r".*\.v", []]),
        "layers_to_transform": st.sampled_from([None, 0, 1, [0], [1, 10], []]),
        "layers_pattern": st.sampled_from([None, "layers", ["layers"], ["blocks"], ""]),
        "bias": st.sampled_from(["none", "none", "all", "lora_only"]),
        "task_type": st.sampled_from([None, "FEATURE_EXTRACTION", "CAUSAL_LM"]),
        "lora_alpha": st.sampled_from([1, 8, 2.5, 0, -4]),
    }
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": draw(targets())}
    for name in draw(st.lists(st.sampled_from(sorted(optional)), max_size=4, unique=True)):
        config[name] = draw(optional[name])
    return config


@st.composite
def factors(draw: st.DrawFn, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random factors under the keys, and of the shapes, that PEFT itself writes for a config, if it takes that."""
    if not (shapes := written_by_peft(json.dumps(config))):
        return draw(any_factors(config))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    dtypes = st.sampled_from([torch.float32, torch.float32, torch.float16, torch.bfloat16, torch.float64])
    return {key: torch.randn(shape, generator=rng).to(draw(dtypes)) for key, shape in shapes.items()}


@st.composite
def any_factors(draw: st.DrawFn, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Factors for some sites of the model, whether or not the config names them."""
    rng = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    tensors = {}
    for site in draw(st.lists(st.sampled_from(SITES), min_size=1, max_size=4, unique=True)):
        out_features, in_features = SHAPES[site]
        tensors[f"base_model.model.{site}.lora_A.weight"] = torch.randn(config["r"], in_features, generator=rng)
        tensors[f"base_model.model.{site}.lora_B.weight"] = torch.randn(out_features, config["r"], generator=rng)
    return tensors


@st.composite
def mutated_factors(draw: st.DrawFn, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Factors one of which is renamed, dropped, reshaped, of another type, or not finite."""
    tensors = dict(tensors)
    key = draw(st.sampled_from(sorted(tensors)))
    match draw(st.sampled_from(["drop", "rename", "shape", "dtype", "values", "swap", "more", "many"])):
        case "drop":
            del tensors[key]
        case "rename":
            site = key.removeprefix("base_model.model.").partition(".lora_")[0]
            start = draw(
                st.sampled_from(["base_model.model.", "", "base_model.", "module.base_model.model.", "model."])
            )
            tensors[f"{start}{site}.{draw(st.sampled_from(FOREIGN))}"] = tensors.pop(key)
        case "shape":
            shape = draw(st.sampled_from([(0, 5), (2,), (), (2, 5, 1, 1), (1, 5), (5, 2), (2, 500), (3_000, 5)]))
            tensors[key] = torch.ones(shape)
        case "dtype":
            dtype = draw(st.sampled_from([torch.int8, torch.bool, torch.float8_e4m3fn, torch.int64, torch.complex64]))
            tensors[key] = tensors[key].to(dtype)
        case "values":
            value = draw(st.sampled_from([float("nan"), float("inf"), 1e300, 3e38, 1e-45, 0.0]))
            tensors[key] = torch.full(tensors[key].shape, value, dtype=torch.float64)
        case "swap":
            other = draw(st.sampled_from(sorted(tensors)))
            tensors[key], tensors[other] = tensors[other].clone(), tensors[key].clone()
        case "more":
            tensors[draw(st.sampled_from(["base_model.model.lm_head.weight", "x", "", "\u202e", "a" * 999]))] = (
                torch.ones(2, 3)
            )
        case "many":
            tensors |= {key.replace("layers.", f"layers.{number}"): torch.ones(2, 5) for number in range(300)}
    return tensors


def _with_header(data: bytes, header: Any) -> bytes:
    """The file with another header before the same numbers."""
    length = int.from_bytes(data[:8], "little")
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


@st.composite
def mutated_weights(draw: st.DrawFn, data: bytes) -> bytes:
    """A safetensors file whose header lies, or whose bytes are damaged."""
    if draw(st.booleans()):
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        return _with_header(data, draw(mutated_tree(header, ("dtype", "shape", "data_offsets", "__metadata__"))))
    return draw(mutated_bytes(data))


@st.composite
def folders(draw: st.DrawFn, *, sound: bool = False) -> Mutant:
    """An adapter folder: a sound one of any form, or one of these that was mutated in one to two ways."""
    config = draw(configs())
    tensors = draw(factors(config) if sound or draw(st.booleans()) else any_factors(config))
    ways = [] if sound else draw(st.lists(st.sampled_from(_WAYS), min_size=1, max_size=2, unique=True))
    if "factors" in ways:
        tensors = draw(mutated_factors(tensors))
    if "config" in ways:
        config = draw(mutated_tree(config, KEYS))
    files = {CONFIG: as_json(config), WEIGHTS: safetensors.torch.save(tensors)}
    if "bytes of the config" in ways:
        files[CONFIG] = draw(mutated_bytes(files[CONFIG]))
    if "weights" in ways:
        files[WEIGHTS] = draw(mutated_weights(files[WEIGHTS]))
    if "files" in ways:
        files = draw(st.sampled_from(_other_files(files)))
    return Mutant(files, ", ".join(ways) or "sound")


def _other_files(files: dict[str, bytes]) -> list[dict[str, bytes]]:
    """Folders that hold the files in another place, in part, or beside others."""
    config, weights = files[CONFIG], files[WEIGHTS]
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
    return [
        {CONFIG: config},
        {WEIGHTS: weights},
        {},
        {CONFIG: config, "adapter_model.bin": weights},
        {CONFIG: config, WEIGHTS: pointer},
        {CONFIG: pointer, WEIGHTS: weights},
        {CONFIG: b'{"architectures": ["BertModel"], "model_type": "bert"}', WEIGHTS: weights},
        {f"default/{name}": content for name, content in files.items()},
        {**files, "extra.txt": b"x", "README.md": b"\xff\xfe", "card.yaml": b"labels: 5"},
        {**files, "adapter_model.safetensors.index.json": b'{"weight_map": {"a": "../x"}}'},
    ]


_WAYS = ("factors", "config", "config", "bytes of the config", "weights", "weights", "files")
