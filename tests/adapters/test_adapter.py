import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import KEY, QUERY, VALUE, factors, make_adapter

from loragen.adapters.adapter import AdapterSpec, Lora, Site


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


# --- folders -------------------------------------------------------------------------------------------------------

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
    assert set(one) == {".loragen.json", "adapter_config.json", "adapter_model.safetensors", "card.yaml", "blob"}
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
