import json
import math
import pickle
import re
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from models import tiny_bert, tiny_gpt2, tiny_llama
from safetensors.torch import load_file, save_file

from loragen.adapters.adapter import AdapterSpec, Lora, LoraSettings, Site
from loragen.errors import AdapterError

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

QUERY, KEY, VALUE = (f"encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value"))
TOKENS = torch.arange(1, 25).reshape(2, 12)


def factors(ranks, generator=None, columns=6, rows=5):
    generator = generator or torch.Generator().manual_seed(0)
    lora_A = {site: torch.randn(rank, columns, generator=generator) for site, rank in ranks.items()}
    lora_B = {site: torch.randn(rows, rank, generator=generator) for site, rank in ranks.items()}
    return lora_A, lora_B


def make_adapter(ranks=None, **kwargs):
    return Lora.from_factors(*factors(ranks or {QUERY: 2, VALUE: 2}), base_model_name_or_path="tiny", **kwargs)


# --- against PEFT ---------------------------------------------------------------------------------------------------

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


# --- arithmetic -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"rank_pattern": {"query": 16}}, 8 / 16),
        ({"alpha_pattern": {"query": 2}}, 2 / 4),
        ({"alpha_pattern": {"uery": 2}}, 8 / 4),  # endings are whole names
        ({"alpha_pattern": {"self": 2}}, 8 / 4),  # and reach the end
        ({"alpha_pattern": {".*uery": 2}}, 2 / 4),
        ({"alpha_pattern": {"^query": 2}}, 8 / 4),  # an anchor holds at the beginning of the whole name
        ({"rank_pattern": {"self.query": 2, "query": 16}}, 8 / 2),  # the first match counts
        ({"rank_pattern": {"query": 16, "self.query": 2}}, 8 / 16),
    ],
    ids=str,
)
def test_scaling(changes, scaling):
    base = LoraSettings(r=4, lora_alpha=8, target_modules=("query",))
    assert replace(base, **changes).scaling(QUERY) == scaling


@pytest.mark.parametrize(
    ("targets", "covered"),
    [
        (("value", "query"), True),
        (("self.query",), True),
        ((QUERY,), True),
        (("uery",), False),
        (("self",), False),
        ((), False),
        (r".*\.query", True),
        ("query", False),  # a lone string is matched against whole names
        ("All-Linear", True),
    ],
    ids=str,
)
def test_targets(targets, covered):
    assert LoraSettings(r=4, lora_alpha=8, target_modules=targets).targets(QUERY) is covered


def test_the_order_of_patterns_survives_saving(tmp_path):
    settings = LoraSettings(
        4, 4, ("query",), rank_pattern={"self.query": 2, "query": 1}, alpha_pattern={"z": 1, "a": 2}
    )
    Lora(settings, *factors({QUERY: 2})).save(tmp_path / "adapter")
    loaded = Lora.load(tmp_path / "adapter").settings
    assert list(loaded.rank_pattern) == ["self.query", "query"]
    assert list(loaded.alpha_pattern) == ["z", "a"]


@pytest.mark.parametrize("fan_in_fan_out", [False, True])
def test_norm_is_that_of_the_updates(fan_in_fan_out):
    adapter = make_adapter({QUERY: 3, VALUE: 1}, scaling=-0.5, fan_in_fan_out=fan_in_fan_out)
    updates = torch.cat([adapter.weight_update(site).flatten() for site in adapter.sites])
    assert adapter.norm() == pytest.approx(updates.norm().item(), rel=1e-6)
    assert adapter.weight_update(QUERY).shape == ((6, 5) if fan_in_fan_out else (5, 6))
    assert adapter.delta_weight(QUERY).shape == (5, 6)


def test_half_precision_is_multiplied_in_float32():
    lora_A, lora_B = factors({QUERY: 2})
    halves = ({QUERY: lora_A[QUERY].bfloat16()}, {QUERY: lora_B[QUERY].bfloat16()})
    delta = Lora.from_factors(*halves, base_model_name_or_path=None).delta_weight(QUERY)
    torch.testing.assert_close(delta, halves[1][QUERY].float() @ halves[0][QUERY].float())


def test_ranks_of_their_own_are_given_as_patterns():
    settings = make_adapter({QUERY: 2, KEY: 4, VALUE: 4}, scaling=1.5).settings
    assert (settings.r, settings.lora_alpha) == (4, 6)
    assert len(settings.rank_pattern) == len(settings.alpha_pattern) == 1
    assert settings.rank(QUERY) == 2
    # An ending of another name must not lend it a rank.
    assert settings.rank(f"other.{QUERY}") == 4
    assert {settings.scaling(site) for site in (QUERY, KEY, VALUE)} == {1.5}


def test_sites_stand_in_natural_order():
    names = [f"layer.{number}.{name}" for number in (10, 2, 0) for name in ("b", "a")]
    adapter = make_adapter(dict.fromkeys(names, 1))
    assert adapter.sites == tuple(f"layer.{number}.{name}" for number in (0, 2, 10) for name in ("a", "b"))
    assert [site.name for site in adapter.spec.sites] == list(adapter.sites)
    assert adapter.settings.target_modules == adapter.sites


def test_spec_differences_are_told_in_words():
    spec = make_adapter({QUERY: 2, VALUE: 2}).spec
    assert spec == AdapterSpec((Site(VALUE, 5, 6, 2), Site(QUERY, 5, 6, 2)))
    assert spec.difference(make_adapter({QUERY: 2, VALUE: 2}, scaling=3.0).spec) is None
    assert spec.difference(make_adapter({QUERY: 2}).spec) == f"{VALUE} is adapted here but not there"
    assert make_adapter({QUERY: 2}).spec.difference(spec) == f"{VALUE} is adapted there but not here"
    assert spec.difference(make_adapter({QUERY: 2, VALUE: 3}).spec) == f"{VALUE} has r=2 here but r=3 there"
    wider = AdapterSpec((Site(QUERY, 5, 7, 2), Site(VALUE, 5, 6, 2)))
    assert spec.difference(wider) == f"{QUERY} has in_features=6 here but in_features=7 there"


# --- folders --------------------------------------------------------------------------------------------------------

NAMES = st.lists(st.sampled_from(["a", "b", "layer", "1", "12", "q_proj", "x-y", "lora_A"]), min_size=1, max_size=4)


@given(
    ranks=st.dictionaries(NAMES.map(".".join), st.integers(1, 5), min_size=1, max_size=4),
    shape=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    scaling=st.floats(-4, 4),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory, ranks, shape, dtype, scaling, seed):
    lora_A, lora_B = (
        {site: tensor.to(dtype) for site, tensor in held.items()}
        for held in factors(ranks, torch.Generator().manual_seed(seed), *shape)
    )
    adapter = Lora.from_factors(lora_A, lora_B, base_model_name_or_path="tiny", scaling=scaling)
    folder = tmp_path_factory.mktemp("round") / "adapter"
    adapter.save(folder)
    loaded = Lora.load(folder)

    assert loaded.settings == adapter.settings
    assert loaded.spec == adapter.spec
    for site in adapter.sites:
        torch.testing.assert_close(loaded.lora_A[site], lora_A[site], rtol=0, atol=0)
        torch.testing.assert_close(loaded.lora_B[site], lora_B[site], rtol=0, atol=0)
        assert loaded.settings.scaling(site) == pytest.approx(scaling)


def test_equal_adapters_give_equal_bytes(tmp_path):
    lora_A, lora_B = factors({QUERY: 2, KEY: 1, VALUE: 2})
    backwards = tuple(dict(reversed(held.items())) for held in (lora_A, lora_B))
    for name, held in (("one", (lora_A, lora_B)), ("two", backwards), ("two", backwards)):
        Lora.from_factors(*held, base_model_name_or_path="tiny").save(
            tmp_path / name, extra_files={"card.yaml": "é", "blob": b"\0"}
        )
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert set(one) == {"adapter_config.json", "adapter_model.safetensors", "card.yaml", "blob"}
    assert (one["card.yaml"], one["blob"]) == ("é".encode(), b"\0")
    assert list(json.loads(one["adapter_config.json"])) == sorted(json.loads(one["adapter_config.json"]))


def test_views_and_shared_factors_are_saved(tmp_path):
    shared, flat = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)), torch.arange(20.0, requires_grad=True)
    lora_B = {QUERY: flat[:10].reshape(5, 2), VALUE: flat[10:].reshape(2, 5).T}
    Lora.from_factors({QUERY: shared, VALUE: shared}, lora_B, base_model_name_or_path=None).save(tmp_path / "adapter")
    loaded = Lora.load(tmp_path / "adapter")
    assert torch.equal(loaded.lora_A[VALUE], shared)
    assert torch.equal(loaded.lora_B[VALUE], lora_B[VALUE])


def test_a_failed_save_leaves_the_old_folder(tmp_path):
    folder = tmp_path / "adapter"
    make_adapter(scaling=1.0).save(folder, extra_files={"README.md": "old"})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UnicodeEncodeError):
        make_adapter(scaling=2.0).save(folder, extra_files={"README.md": "new", "card.yaml": "\udc80"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert list(tmp_path.iterdir()) == [folder]


# --- refusals -------------------------------------------------------------------------------------------------------


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
    refused(folder, key, str(value).strip("[]")[:100])


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
        ({key_of(VALUE): torch.ones(2, 6).to(torch.float8_e4m3fn)}, [VALUE, "lora_A", "float8_e4m3fn"]),
        ({key_of(VALUE): torch.full((2, 6), math.nan)}, [f"{VALUE}.lora_A", "12 values"]),
        ({key_of(VALUE, "B"): torch.tensor([[1.0, math.inf]] * 5)}, [f"{VALUE}.lora_B", "5 values"]),
        ({key_of(QUERY).replace(".weight", ".default.weight"): torch.ones(2, 6)}, [QUERY, "twice"]),
        ({key_of(QUERY).replace(".weight", ".mine.weight"): torch.ones(2, 6)}, [f"{QUERY}.lora_A.mine.weight"]),
        ({f"{QUERY}.lora_A.weight": torch.ones(2, 6)}, [f"holds {QUERY}.lora_A.weight"]),
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
