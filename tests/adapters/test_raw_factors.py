import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.adapter import AdapterSpec, Lora, Site
from loragen.adapters.raw_factors import RawFactors
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError

SECOND, TENTH, DENSE = "layer.2.query", "layer.10.query", "layer.2.dense"
SITES = (Site(TENTH, 4, 6, 2), Site(SECOND, 4, 6, 2), Site(DENSE, 7, 3, 1))  # out, in, r


def make(seed=0, sites=SITES, *, dtype=torch.float32, **options):
    """An adapter with random factors."""
    rng = torch.Generator().manual_seed(seed)
    r = max(site.r for site in sites)
    settings = LoraSettings(
        r=r,
        lora_alpha=options.pop("lora_alpha", 3),
        target_modules=tuple(site.name for site in sites),
        rank_pattern={site.name: site.r for site in sites if site.r != r},
        **options,
    )
    return Lora(
        settings,
        {site.name: torch.randn(site.r, site.in_features, generator=rng).to(dtype) for site in sites},
        {site.name: torch.randn(site.out_features, site.r, generator=rng).to(dtype) for site in sites},
    )


def test_a_vector_holds_a_then_scaled_b_of_each_site():
    adapter = make(lora_alpha=8, alpha_pattern={DENSE: 3})  # scaling 4, and 3 at the dense site
    wanted = [
        part
        for site, scaling in ((DENSE, 3), (SECOND, 4), (TENTH, 4))
        for part in (adapter.lora_A[site].flatten(), scaling * adapter.lora_B[site].flatten())
    ]
    assert torch.equal(RawFactors(adapter.spec).coordinates(adapter), torch.cat(wanted))


def test_sizes_cut_a_vector_into_its_tensors():
    adapter = make()
    raw = RawFactors(adapter.spec)
    assert list(raw.sizes.items()) == [
        (f"{DENSE}.lora_A", 3),
        (f"{DENSE}.lora_B", 7),
        (f"{SECOND}.lora_A", 12),
        (f"{SECOND}.lora_B", 8),
        (f"{TENTH}.lora_A", 12),
        (f"{TENTH}.lora_B", 8),
    ]
    coordinates = raw.coordinates(adapter)
    assert coordinates.shape == (raw.size,) == (50,)
    parts = dict(zip(raw.sizes, coordinates.split(list(raw.sizes.values())), strict=True))
    assert torch.equal(parts[f"{SECOND}.lora_A"], adapter.lora_A[SECOND].flatten())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lora_alpha": 2},
        {"lora_alpha": 7, "use_rslora": True},  # a scaling that no float holds exactly
        {"alpha_pattern": {SECOND: 11}},
        {"dtype": torch.bfloat16},
    ],
)
def test_an_adapter_comes_back_exactly(options):
    adapter = make(**options)
    raw = RawFactors(adapter.spec)
    coordinates = raw.coordinates(adapter)
    again = raw.adapter(coordinates.clone(), base="tiny", task_type="FEATURE_EXTRACTION")
    assert coordinates.dtype == torch.float32
    assert again.sites == adapter.sites
    for site in adapter.sites:
        assert all(map(torch.equal, again.scaled_factors(site), adapter.scaled_factors(site)))
        assert torch.allclose(again.delta_weight(site), adapter.delta_weight(site), atol=1e-5)
    assert again.settings.base_model_name_or_path == "tiny"
    assert again.settings.task_type == "FEATURE_EXTRACTION"
    assert torch.equal(raw.coordinates(again), coordinates)


@given(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=3), st.integers(0, 2**31))
def test_a_vector_comes_back_exactly(shapes, seed):
    raw = RawFactors(AdapterSpec(tuple(Site(f"layer.{i}.q", *sizes) for i, sizes in enumerate(shapes))))
    coordinates = torch.randn(raw.size, generator=torch.Generator().manual_seed(seed))
    adapter = raw.adapter(coordinates, base=None)
    assert adapter.spec == raw.spec
    assert torch.equal(raw.coordinates(adapter), coordinates)


def test_an_adapter_owns_its_factors():
    raw = RawFactors(make().spec)
    coordinates = torch.ones(raw.size)
    adapter = raw.adapter(coordinates, base=None)
    coordinates.zero_()
    assert adapter.lora_A[DENSE].all()
    assert adapter.lora_B[DENSE].all()


def test_a_written_adapter_says_the_same_to_its_reader(tmp_path):
    adapter = make(lora_alpha=8)
    raw = RawFactors(adapter.spec)
    coordinates = raw.coordinates(adapter)
    raw.adapter(coordinates, base="tiny").save(tmp_path / "again")
    assert torch.equal(raw.coordinates(Lora.load(tmp_path / "again")), coordinates)


@pytest.mark.parametrize(
    ("sites", "difference"),
    [
        (SITES[:2], f"{DENSE} is adapted there but not here"),
        ((*SITES, Site("layer.3.dense", 7, 3, 1)), "layer.3.dense is adapted here but not there"),
        ((*SITES[:2], Site(DENSE, 7, 3, 2)), f"{DENSE} has r=2 here but r=1 there"),
        ((*SITES[:2], Site(DENSE, 7, 5, 1)), f"{DENSE} has in_features=5 here but in_features=3 there"),
        ((*SITES[:2], Site(DENSE, 8, 3, 1)), f"{DENSE} has out_features=8 here but out_features=7 there"),
    ],
)
def test_another_layout_is_refused_by_name(sites, difference):
    with pytest.raises(AdapterError, match=rf"{difference} \(there: the generator's\); use the codec 'frame'"):
        RawFactors(make().spec).coordinates(make(sites=sites))


def test_adapters_of_one_layout_may_differ_in_scaling():
    one, other = make(lora_alpha=2), make(lora_alpha=6)  # scaling 1 and 3, same factors
    raw = RawFactors(one.spec)
    first, second = (raw.coordinates(adapter).split(list(raw.sizes.values())) for adapter in (one, other))
    for name, a, b in zip(raw.sizes, first, second, strict=True):
        assert torch.allclose(b, a * (3 if name.endswith("lora_B") else 1))
