"""Adapters of MLX: read as the update that mlx-lm computes, or refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file

from loragen.adapters.adapter import Lora
from loragen.errors import AdapterError

Q, V = (f"model.layers.{i}.self_attn.{name}_proj" for i, name in ((0, "q"), (1, "v")))
SIZES = {Q: (16, 24), V: (16, 8)}  # (in, out)
CONFIG = {
    "fine_tune_type": "lora",
    "model": "mlx-community/Tiny",
    "num_layers": 2,
    "seed": 0,
    "lora_parameters": {"rank": 4, "scale": 20.0, "dropout": 0.0, "keys": ["self_attn.q_proj"]},
}


@pytest.fixture
def tensors():
    rng = torch.Generator().manual_seed(0)
    made = {}
    for site, (in_features, out_features) in SIZES.items():
        made[f"{site}.lora_a"] = torch.randn(in_features, 4, generator=rng)
        made[f"{site}.lora_b"] = torch.randn(4, out_features, generator=rng)
    return made


def write(folder, tensors, **changes):
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapters.safetensors", metadata={"format": "mlx"})
    return folder


@pytest.mark.parametrize("changes", [{}, {"fine_tune_type": None}])
def test_the_update_is_that_of_mlx(tmp_path, tensors, changes):
    lora = Lora.load(write(tmp_path, tensors, **changes))
    assert lora.sites == (Q, V)
    assert (lora.settings.base, lora.settings.task_type) == ("mlx-community/Tiny", "CAUSAL_LM")
    for site, (in_features, out_features) in SIZES.items():
        x = torch.randn(3, in_features, generator=torch.Generator().manual_seed(1))
        by_mlx = 20.0 * (x @ tensors[f"{site}.lora_a"]) @ tensors[f"{site}.lora_b"]  # mlx_lm/tuner/lora.py
        assert lora.delta_weight(site).shape == (out_features, in_features)
        torch.testing.assert_close(x @ lora.delta_weight(site).T, by_mlx, rtol=1e-5, atol=1e-4)
    assert any("MLX" in note and "--base" in note for note in lora.origin.notes)
    lora.save(tmp_path / "peft")
    again = Lora.load(tmp_path / "peft")
    assert all(torch.equal(again.delta_weight(site), lora.delta_weight(site)) for site in SIZES)


@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        ({"fine_tune_type": "dora"}, "'dora'"),
        ({"fine_tune_type": "full"}, "'full'"),
        ({"use_dora": True}, "use_dora"),
        ({"lora_parameters": {"rank": 4}}, "a rank and a scale"),
        ({"lora_parameters": {"rank": "4", "scale": 2}}, "a rank and a scale"),
        ({"lora_parameters": {"rank": 4, "scale": float("nan")}}, "lora_alpha is nan"),
        ({"lora_parameters": {"rank": 0, "scale": 1}}, "wants"),
        ({"lora_parameters": {"rank": 4, "scale": 10, "alpha": 16}}, "both alpha and scale"),
        ({"lora_parameters": {"rank": 8, "scale": 10}}, "rank 8 wants"),
        ({"lora_parameters": []}, "a rank and a scale"),
    ],
    ids=str,
)
def test_what_cannot_be_converted_is_refused(tmp_path, tensors, changes, mention):
    with pytest.raises(AdapterError, match=r"adapter_config.json|adapters.safetensors|lora_alpha") as caught:
        Lora.load(write(tmp_path, tensors, **changes))
    assert mention in str(caught.value)


@pytest.mark.parametrize(
    ("key", "tensor", "mention"),
    [
        ("model.embed_tokens.lora_a", torch.ones(64, 4), "embedding"),
        (f"{Q}.m", torch.ones(24), "no factor of a LoRA"),
        ("model.layers.0.mlp.switch_mlp.up_proj.lora_a", torch.ones(2, 4, 16), "shape (2, 4, 16)"),
        ("model.layers.0.mlp.up_proj.lora_b", torch.ones(5, 16), "shape (5, 16)"),
        ("model.layers.0.mlp.up_proj.lora_b", torch.ones(4, 16), "no lora_A"),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit_are_named(tmp_path, tensors, key, tensor, mention):
    with pytest.raises(AdapterError) as caught:
        Lora.load(write(tmp_path, tensors | {key: tensor}))
    assert mention in str(caught.value)


def test_a_config_without_weights_names_the_file(tmp_path, tensors):
    write(tmp_path, tensors)
    (tmp_path / "adapters.safetensors").unlink()
    with pytest.raises(AdapterError, match=r"adapters\.safetensors"):
        Lora.load(tmp_path)
