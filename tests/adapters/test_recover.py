"""Recovery of adapters of pruned bases, and the index maps that it goes by."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import tiny_bert, tiny_llama

from loragen.adapters.adapter import Lora
from loragen.adapters.index_map import IndexMap, SiteMap
from loragen.adapters.recover import recover, recovered_factors, restricted_factors
from loragen.bases.linear_sites import site_updates
from loragen.bases.pruning import index_map, pruned_copy
from loragen.errors import AdapterError, ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
IDS = torch.arange(5, 25).view(2, 10)
SITE = "encoder.layer.0.output.dense"
MAP = IndexMap(
    "full", "ab", {SITE: SiteMap(3, 4, kept_in=(0, 3)), "encoder.layer.0.intermediate.dense": SiteMap(4, 3, (1, 2))}
)


def random_adapter(sizes, r=3, seed=0, **options):
    rng = torch.Generator().manual_seed(seed)
    a = {site: torch.randn(r, size[1], generator=rng) for site, size in sizes.items()}
    b = {site: torch.randn(size[0], r, generator=rng) for site, size in sizes.items()}
    return Lora.from_factors(a, b, **{"base_model_name_or_path": "small", "scaling": 0.5} | options)


def masked(model, kept):
    """The full model whose pruned neurons and heads reach nothing: zero columns of what reads them."""
    with torch.no_grad():
        for name, site in kept.sites.items():
            if site.kept_in is not None:
                gone = sorted({*range(site.in_features)} - {*site.kept_in})
                model.get_submodule(name).weight[:, gone] = 0
    return model


@pytest.mark.parametrize("build", [tiny_bert, tiny_llama])
def test_recovered_over_the_masked_full_model_it_is_the_pruned_model(build, tmp_path):
    from peft import PeftModel

    full = build(seed=5).requires_grad_(False)
    kept, _ = index_map(full, base="full", base_hash="", neurons=0.5, heads=0.5)
    small = pruned_copy(full, kept)
    adapter = random_adapter({site: found.pruned_size for site, found in kept.sites.items() if "layer" in site})
    recovered = recover(adapter, kept)
    for site in recovered.spec.sites:
        assert (site.out_features, site.in_features) == (
            kept.sites[site.name].out_features,
            kept.sites[site.name].in_features,
        )
    with torch.no_grad(), site_updates(small, "small", {s: adapter.scaled_factors(s) for s in adapter.sites}):
        wanted = small(input_ids=IDS)[0]
    masked(full, kept)
    with torch.no_grad(), site_updates(full, "full", {s: recovered.scaled_factors(s) for s in recovered.sites}):
        found = full(input_ids=IDS)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    recovered.save(tmp_path / "recovered")
    with torch.no_grad():
        by_peft = PeftModel.from_pretrained(full, tmp_path / "recovered").eval()(input_ids=IDS)[0]
    torch.testing.assert_close(by_peft, wanted, rtol=1e-5, atol=1e-5)


def test_zeros_are_where_the_card_of_the_method_puts_them():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0], [4.0], [5.0]])
    found = recovered_factors({SITE: (a, b)}, MAP)[SITE]
    assert found[0].tolist() == [[1, 0, 0, 2]]
    assert torch.equal(found[1], b)
    inner = "encoder.layer.0.intermediate.dense"
    found = recovered_factors({inner: (torch.ones(1, 3), torch.tensor([[6.0], [7.0]]))}, MAP)[inner]
    assert found[1].tolist() == [[0], [6], [7], [0]]


@given(st.data())
def test_restricting_what_was_recovered_gives_it_back_and_the_norm_stays(data):
    def some(size):
        return data.draw(
            st.none() | st.sets(st.integers(0, size - 1), min_size=1).map(lambda kept: tuple(sorted(kept)))
        )

    site = SiteMap(6, 5, some(6), some(5))
    kept = IndexMap("full", "", {"x": site})
    adapter = random_adapter({"x": site.pruned_size}, seed=data.draw(st.integers(0, 99)))
    recovered = recover(adapter, kept)
    back = restricted_factors({"x": (recovered.lora_A["x"], recovered.lora_B["x"])}, kept)["x"]
    assert torch.equal(back[0], adapter.lora_A["x"])
    assert torch.equal(back[1], adapter.lora_B["x"])
    dense = torch.zeros(6, 5)
    rows, columns = (range(n) if k is None else k for n, k in ((6, site.kept_out), (5, site.kept_in)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            dense[row, column] = adapter.delta_weight("x")[i, j]
    torch.testing.assert_close(recovered.delta_weight("x"), dense)


def test_settings_stay_but_for_the_base():
    sizes = {SITE: (3, 2)}
    adapter = random_adapter(sizes, task_type="FEATURE_EXTRACTION")
    half = Lora(adapter.settings, *({s: t.bfloat16() for s, t in f.items()} for f in (adapter.lora_A, adapter.lora_B)))
    found = recover(half, replace(MAP, base="org/full@v1"))
    assert found.settings == replace(adapter.settings, base_model_name_or_path="org/full", revision="v1")
    assert found.lora_A[SITE].dtype == torch.bfloat16


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_prefix_of_another_class_does_not_matter(prefix):
    kept = IndexMap("full", "", {f"bert.{SITE}": MAP.sites[SITE]}) if not prefix else MAP
    found = recover(random_adapter({f"{prefix}{SITE}": (3, 2)}), kept)
    assert found.lora_A[f"{prefix}{SITE}"].shape == (3, 4)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({SITE: (3, 4)}, "sizes of the full base at 'encoder.layer.0.output.dense' already"),
        ({SITE: (3, 3)}, "maps 3 to 3 features at .*where the pruned base of the index map maps 2 to 3"),
        ({"encoder.layer.9.output.dense": (3, 2)}, "which the index map of the base full does not have"),
        ({"dense": (3, 2)}, "has 2 of this ending"),
    ],
)
def test_maps_that_do_not_fit_are_refused(sizes, said):
    with pytest.raises(AdapterError, match=said):
        recover(random_adapter(sizes), MAP)


def test_factors_that_are_not_the_full_base_s_are_not_restricted():
    with pytest.raises(AdapterError, match="where the full base of the index map maps 4 to 3"):
        restricted_factors({SITE: (torch.zeros(1, 2), torch.zeros(3, 1))}, MAP)


# --- index maps ---


def test_a_map_survives_its_file(tmp_path):
    (tmp_path / "pruned.json").write_text(MAP.to_json())
    assert IndexMap.load(tmp_path) == IndexMap.load(tmp_path / "pruned.json") == MAP
    assert json.loads(MAP.to_json())["sites"][SITE]["kept_in"] == [0, 3]
    assert IndexMap.from_json(MAP.to_json().encode(), source="it").to_json() == MAP.to_json()


@pytest.mark.parametrize(
    "kept",
    [(), (1, 1), (2, 1), (-1, 0), (0, 4), (0, True), (0, 1.0), ("a",), (0, None)],
)
def test_indices_ascend_within_the_size(kept):
    with pytest.raises(ConfigError, match="kept_in"):
        SiteMap(3, 4, kept_in=kept)


@pytest.mark.parametrize(
    "sizes", [(0, 4), (3, -1), (True, 4), (10**9, 4), (3, "4"), (3, None), (100_000, 4, (0, 1)), (10**5000, 1)]
)
def test_sizes_are_those_of_a_layer(sizes):
    with pytest.raises(ConfigError, match="_features is"):
        SiteMap(*sizes)


def changed(**changes):
    return json.dumps(json.loads(MAP.to_json()) | changes)


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "{}", "null", "[" * 1000, MAP.to_json()[:-20], '{"base": "a", "base": "b"}', "\x00"),
        *(changed(format=2), changed(more=1), changed(base=""), changed(base=[1]), changed(base_hash=None)),
        *(changed(sites=[]), changed(sites={}), changed(sites={"x": []}), changed(sites={"x": {"kept_in": [1]}})),
        changed(sites={"x": {"out_features": 3, "in_features": 4, "kept_out": "01", "kept_in": None}}),
        changed(sites={"x": {"out_features": 3, "in_features": 4, "kept_out": [[0]], "kept_in": None}}),
        changed(sites={"x" * 9999: {"out_features": 3, "in_features": 4, "kept_out": None, "kept_in": None}}),
    ],
)
def test_damaged_maps_are_one_short_error(text):
    with pytest.raises(ConfigError, match=r"it is no index map .*prune the base again") as caught:
        IndexMap.from_json(text.encode(), source="it")
    assert len(str(caught.value)) < 900


def test_a_map_that_is_too_large_is_not_read(tmp_path):
    file = tmp_path / "pruned.json"
    with file.open("wb") as sparse:
        sparse.truncate(200_000_000)
    with pytest.raises(ConfigError, match="no index map has over"):
        IndexMap.load(file)
