"""Adapters read and written as PEFT does."""

import re

import pytest
import torch
from loras import factors
from models import tiny_bert, tiny_gpt2, tiny_llama
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import Lora

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

TOKENS = torch.arange(1, 25).reshape(2, 12)
BASES = {
    "bert": (tiny_bert, ["query", "value", "output.dense"], False),
    "llama": (tiny_llama, ["q_proj", "v_proj", "down_proj"], False),
    "gpt2": (tiny_gpt2, ["c_attn", "c_proj", "c_fc"], True),
}
# Both patterns of a kind match some sites. They stand in the order that PEFT writes, which sorts them.
RANKS = {"rank_pattern": {".*(query|q_proj|c_attn)": 5, ".*1.*": 2}}
ALPHAS = {"alpha_pattern": {".*(query|q_proj|c_attn)": 7, ".*0.*": 3}}
OPTIONS = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": RANKS,
    "alpha_pattern": ALPHAS,
    "all": {"use_rslora": True, **RANKS, **ALPHAS},
}


def peft_model(base, **options):
    """A model with random factors that PEFT made, in evaluation mode."""
    from peft import LoraConfig, get_peft_model

    build, targets, fan_in_fan_out = BASES[base]
    common = {"r": 3, "lora_alpha": 4, "target_modules": targets, "init_lora_weights": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return get_peft_model(build(), LoraConfig(fan_in_fan_out=fan_in_fan_out, **common | options)).eval()


def peft_deltas(model):
    from peft.tuners.lora import LoraLayer

    layers = {name: layer for name, layer in model.base_model.model.named_modules() if isinstance(layer, LoraLayer)}
    return {name: layer.get_delta_weight("default").detach() for name, layer in layers.items()}


def load_into(base, folder):
    """Load an adapter with PEFT alone, and see that every tensor found its place."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(BASES[base][0](), folder)
    result = model.load_adapter(folder, "again")
    assert not result.missing_keys
    assert not result.unexpected_keys
    return model.eval()


def outputs(model):
    with torch.no_grad():
        return model(TOKENS, attention_mask=torch.ones_like(TOKENS))[0]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("base", BASES)
def test_reads_and_writes_what_peft_does(base, options, tmp_path):
    model = peft_model(base, **options)
    model.save_pretrained(tmp_path / "peft")

    adapter = Lora.load(tmp_path / "peft")
    deltas = peft_deltas(model)
    assert set(adapter.sites) == set(deltas)
    for site, delta in deltas.items():
        torch.testing.assert_close(adapter.weight_update(site), delta, rtol=1e-6, atol=1e-7)

    adapter.save(tmp_path / "ours")
    reloaded = load_into(base, tmp_path / "ours")
    torch.testing.assert_close(outputs(reloaded), outputs(model), rtol=0, atol=0)
    assert not torch.allclose(outputs(model), outputs(BASES[base][0]()), atol=1e-2)


@pytest.mark.parametrize("base", BASES)
def test_from_factors_reaches_the_named_modules_alone(base, tmp_path):
    deltas = peft_deltas(peft_model(base))
    # One module of the first layer and all of the second, so that name endings would not do.
    chosen = {site: delta for site, delta in deltas.items() if ".1." in site or site == min(deltas)}
    lora_A, lora_B = {}, {}
    for number, (site, delta) in enumerate(chosen.items()):
        out_features, in_features = delta.T.shape if BASES[base][2] else delta.shape
        a, b = factors({site: 1 + number % 3}, columns=in_features, rows=out_features)
        lora_A |= a
        lora_B |= b

    adapter = Lora.from_factors(
        lora_A, lora_B, base_model_name_or_path=None, scaling=0.7, fan_in_fan_out=BASES[base][2]
    )
    adapter.save(tmp_path / "adapter")
    reloaded = peft_deltas(load_into(base, tmp_path / "adapter"))
    assert set(reloaded) == set(chosen)
    for site, delta in reloaded.items():
        torch.testing.assert_close(adapter.weight_update(site), delta)
        torch.testing.assert_close(adapter.delta_weight(site), 0.7 * lora_B[site] @ lora_A[site])


def test_full_names_hold_in_a_deep_base(tmp_path):
    # PEFT shortens long lists of names, and layer 1 is the ending of no other: not of layer 11.
    sites = [f"encoder.layer.{layer}.attention.self.{name}" for layer in range(11) for name in ("query", "value")]
    lora_A, lora_B = factors({site: 1 + number % 4 for number, site in enumerate(sites)}, columns=16, rows=16)
    adapter = Lora.from_factors(lora_A, lora_B, base_model_name_or_path=None)
    adapter.save(tmp_path / "adapter")

    from peft import PeftModel

    deltas = peft_deltas(PeftModel.from_pretrained(tiny_bert(layers=12), tmp_path / "adapter"))
    assert set(deltas) == set(sites)
    for site, delta in deltas.items():
        torch.testing.assert_close(adapter.weight_update(site), delta)


@pytest.mark.parametrize("init", ["gaussian", "orthogonal", "mica"])
def test_initialisations_that_spare_the_base_are_read(init, tmp_path):
    model = peft_model("bert", init_lora_weights=init, r=2)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path)

    adapter = Lora.load(tmp_path)
    for site, delta in peft_deltas(model).items():
        torch.testing.assert_close(adapter.weight_update(site), delta)
    adapter.save(tmp_path / "ours")
    torch.testing.assert_close(outputs(load_into("bert", tmp_path / "ours")), outputs(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"layers_to_transform": [0]},
        {"layers_to_transform": 1, "layers_pattern": "layer"},
        {"exclude_modules": ["output.dense"]},
        {"target_modules": r".*layer\.1.*(query|key)"},
        {"target_modules": "all-linear"},
    ],
    ids=str,
)
def test_choices_of_modules_survive_a_round_trip(options, tmp_path):
    model = peft_model("bert", **options)
    model.save_pretrained(tmp_path / "peft")
    adapter = Lora.load(tmp_path / "peft")
    adapter.save(tmp_path / "ours")
    reloaded = load_into("bert", tmp_path / "ours")
    assert set(adapter.sites) == set(peft_deltas(model)) == set(peft_deltas(reloaded))
    torch.testing.assert_close(outputs(reloaded), outputs(model), rtol=0, atol=0)


def test_keys_that_name_the_default_adapter_are_read_as_peft_reads_them(tmp_path):
    model = peft_model("bert")
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    named = {re.sub(r"\.weight$", ".default.weight", key): tensor for key, tensor in load_file(path).items()}
    save_file(named, path)

    from peft import PeftModel

    adapter = Lora.load(tmp_path)
    for site, delta in peft_deltas(PeftModel.from_pretrained(tiny_bert(), tmp_path)).items():
        torch.testing.assert_close(adapter.weight_update(site), delta)
