import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.adapters.frame import Frame
from loragen.adapters.settings import LoraSettings
from loragen.errors import AdapterError, ZooError

QUERY, VALUE = "layer.0.query", "layer.0.value"
SHAPES = {QUERY: (7, 10), VALUE: (5, 9)}  # (out, in)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(seed, ranks=None, lora_A=None, **options):
    """An adapter with random factors, or over a given A."""
    ranks = {site: len(a) for site, a in lora_A.items()} if lora_A else ranks or dict.fromkeys(SHAPES, 3)
    r = next(iter(ranks.values()))
    settings = LoraSettings(
        r=r,
        lora_alpha=options.pop("lora_alpha", r),
        target_modules=("query", "value"),
        base_model_name_or_path="tiny",
        rank_pattern={site: rank for site, rank in ranks.items() if rank != r},
        **options,
    )
    a = lora_A or {
        site: random(rank, SHAPES[site][1], seed=100 * seed + i) for i, (site, rank) in enumerate(ranks.items())
    }
    b = {site: random(SHAPES[site][0], rank, seed=100 * seed + 50 + i) for i, (site, rank) in enumerate(ranks.items())}
    return Lora(settings, a, b)


def shared(n=3, **options):
    """Adapters over one A whose rows are neither orthogonal nor unit."""
    lora_A = {site: random(2, size, seed=7) for site, (_, size) in SHAPES.items()}
    return [make(seed, lora_A=lora_A, **options) for seed in range(1, n + 1)]


def independent():
    """Adapters that share nothing: other A, ranks, alphas and scaling rules."""
    return [
        make(1, {QUERY: 2, VALUE: 1}, lora_alpha=8),
        make(2, {QUERY: 1, VALUE: 2}, lora_alpha=3, use_rslora=True),
        make(3, {QUERY: 3, VALUE: 3}, lora_alpha=2, alpha_pattern={"query": 5}),
    ]


def assert_same_update(met, wanted, rtol=1e-5):
    assert set(met.sites) == set(wanted.sites)
    for site in wanted.sites:
        reference = wanted.delta_weight(site)
        assert (met.delta_weight(site) - reference).norm() <= rtol * reference.norm()


def test_over_a_shared_a_coordinates_are_b():
    adapters = shared(lora_alpha=6)  # scaling 3
    frame = Frame.fit(adapters)
    for adapter in adapters:
        wanted = torch.cat([3 * adapter.lora_B[site].flatten() for site in adapter.sites])
        assert torch.equal(frame.coordinates(adapter), wanted)
        assert frame.energy_kept(adapter) == pytest.approx(1)
    assert all(torch.equal(frame.lora_A[site], adapters[0].lora_A[site]) for site in SHAPES)
    assert frame.size == sum(frame.sizes.values()) == 2 * (7 + 5)


@pytest.mark.parametrize("kind", [shared, independent])
def test_coordinates_give_the_adapter_back(kind):
    adapters = kind()
    frame = Frame.fit(adapters, r=6 if kind is independent else None)
    for adapter in adapters:
        again = frame.adapter(frame.coordinates(adapter), base="tiny", task_type="FEATURE_EXTRACTION")
        assert_same_update(again, adapter)
        assert again.settings.base_model_name_or_path == "tiny"
        assert again.settings.task_type == "FEATURE_EXTRACTION"


def test_with_the_sum_of_ranks_nothing_is_lost():
    adapters = independent()
    frame = Frame.fit(adapters, r=6)
    assert frame.lora_A[QUERY].shape == (6, 10)
    for a in frame.lora_A.values():
        assert torch.allclose(a @ a.T, torch.eye(6), atol=1e-5)
    assert [frame.energy_kept(adapter) for adapter in adapters] == pytest.approx([1, 1, 1])


@pytest.mark.parametrize("r", [None, 1, 2])
@pytest.mark.parametrize("kind", [shared, independent])
def test_a_smaller_frame_keeps_what_an_svd_of_the_stacked_updates_keeps(kind, r):
    adapters = kind()
    frame = Frame.fit(adapters, r=r)
    projections = {}
    for site in SHAPES:
        stacked = torch.cat([adapter.delta_weight(site) for adapter in adapters]).double()
        right = torch.linalg.svd(stacked).Vh[: r or {shared: 2, independent: 3}[kind]]
        projections[site] = right.T @ right
    for adapter in adapters:
        held = frame.adapter(frame.coordinates(adapter), base=None)
        deltas = {site: adapter.delta_weight(site).double() for site in SHAPES}
        for site, delta in deltas.items():
            assert torch.allclose(held.delta_weight(site).double(), delta @ projections[site], atol=1e-4)
        kept = sum((deltas[site] @ projections[site]).square().sum() for site in SHAPES)
        total = sum(delta.square().sum() for delta in deltas.values())
        assert frame.energy_kept(adapter) == pytest.approx(float(kept / total), abs=1e-5)


def test_the_strongest_directions_come_first():
    adapters = independent()
    frame = Frame.fit(adapters, r=4)
    right = torch.linalg.svd(torch.cat([adapter.delta_weight(QUERY) for adapter in adapters])).Vh[:4]
    assert torch.allclose((frame.lora_A[QUERY] @ right.T).abs(), torch.eye(4), atol=1e-3)


def weak_adapter(seed, weakness):
    """One of rank 2, whose second direction is this much weaker than the first."""
    strong = make(seed, dict.fromkeys(SHAPES, 2))
    b = {site: torch.linalg.qr(b)[0] * torch.tensor([1.0, weakness]) for site, b in strong.lora_B.items()}
    a = {site: torch.linalg.qr(a.T)[0].T.contiguous() for site, a in strong.lora_A.items()}
    return Lora(strong.settings, a, b)


@pytest.mark.parametrize("weakness", [1.0, 1e-2, 1e-3, 1e-6, 0.0])
def test_a_frame_of_some_directions_is_orthonormal_and_holds_them_however_weak(weakness):
    adapters = [weak_adapter(seed, weakness) for seed in (1, 2)]
    frame = Frame.fit(adapters, r=3)
    for site, a in frame.lora_A.items():
        assert torch.allclose(a @ a.T, torch.eye(3), atol=1e-5)
        stacked = torch.cat([adapter.delta_weight(site) for adapter in adapters]).double()
        wanted = torch.linalg.svdvals(stacked)[:3]
        met = torch.linalg.vector_norm(stacked @ a.double().T, dim=0)
        assert torch.allclose(met, wanted, rtol=1e-4, atol=1e-6)


def test_a_rank_is_never_larger_than_the_input():
    assert Frame.fit(independent(), r=1000).lora_A[QUERY].shape == (10, 10)


@given(st.integers(1, 3), st.integers(0, 2**31), st.sampled_from(["same frame", "frame of others"]))
def test_coordinates_do_not_depend_on_the_gauge(rank, seed, kind):
    adapter = make(11, dict.fromkeys(SHAPES, rank), lora_alpha=4)
    frame = Frame.fit([adapter] if kind == "same frame" else [make(12, dict.fromkeys(SHAPES, 4))])
    gauge = torch.linalg.qr(random(rank, rank, seed=seed))[0] * torch.logspace(-1, 1, rank)
    turned = Lora(
        adapter.settings,
        {site: torch.linalg.inv(gauge) @ a for site, a in adapter.lora_A.items()},
        {site: b @ gauge for site, b in adapter.lora_B.items()},
    )
    assert not torch.allclose(turned.lora_B[QUERY], adapter.lora_B[QUERY], atol=1e-2) or rank == 1
    met, wanted = frame.coordinates(turned), frame.coordinates(adapter)
    assert (met - wanted).norm() <= 1e-4 * wanted.norm()


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3), st.sampled_from([1, 4]))
def test_coordinates_are_linear_in_the_update(weights, r):
    adapters = independent()
    frame = Frame.fit(adapters, r=r)
    separate = torch.stack([frame.coordinates(adapter) for adapter in adapters])
    merged = frame.coordinates(weighted_sum(adapters, weights))
    assert torch.allclose(merged, torch.tensor(weights) @ separate, atol=1e-4)


def test_a_site_that_an_adapter_lacks_is_zero():
    query, both = make(1, {QUERY: 2}), make(2, {QUERY: 2, VALUE: 2})
    for adapters in ([query, both], [both, query]):
        frame = Frame.fit(adapters, r=4)
        blocks = frame.unflatten(frame.coordinates(query))
        assert not blocks[VALUE].any()
        assert_same_update(
            query,
            Lora.from_factors({QUERY: frame.lora_A[QUERY]}, {QUERY: blocks[QUERY]}, base_model_name_or_path=None),
        )
        assert frame.energy_kept(query) == pytest.approx(1)


def test_an_adapter_that_updates_nothing_loses_nothing():
    adapter = make(1)
    frame = Frame.fit([adapter])
    zero = Lora(adapter.settings, adapter.lora_A, {site: 0 * b for site, b in adapter.lora_B.items()})
    assert frame.energy_kept(zero) == 1.0
    assert not frame.coordinates(zero).any()


def test_energy_kept_is_that_of_the_adapter_that_the_frame_makes():
    adapters = independent()
    lora_A = {site: random(2, size, seed=7) for site, (_, size) in SHAPES.items()}
    for frame in (Frame.fit(adapters, r=2), Frame.fit([make(1, lora_A=lora_A)])):  # orthonormal rows, and any rows
        for adapter in adapters:
            held = frame.adapter(frame.coordinates(adapter), base=None)
            kept = held.norm() ** 2 / adapter.norm() ** 2
            assert 0.01 < kept < 0.99
            assert frame.energy_kept(adapter) == pytest.approx(kept, rel=1e-4)


def test_an_adapter_beside_the_frame_keeps_nothing():
    lora_A = {site: torch.eye(size)[:2] for site, (_, size) in SHAPES.items()}
    beside = {site: torch.eye(size)[2:4] for site, (_, size) in SHAPES.items()}
    frame = Frame.fit([make(1, lora_A=lora_A)])
    assert frame.energy_kept(make(2, lora_A=beside)) == 0
    mixed = weighted_sum([make(1, lora_A=lora_A), make(1, lora_A=beside)], [1, 1])
    assert frame.energy_kept(mixed) == pytest.approx(0.5)


def test_half_precision_adapters_enter_exactly():
    lora_A = {site: random(2, size, seed=7).bfloat16() for site, (_, size) in SHAPES.items()}
    adapter = make(1, lora_A=lora_A)
    frame = Frame.fit([adapter])
    assert all(a.dtype == torch.float32 for a in frame.lora_A.values())
    assert_same_update(frame.adapter(frame.coordinates(adapter), base=None), adapter)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_blocks_and_coordinates_are_each_others_inverse(batch):
    frame = Frame.fit([make(1, {QUERY: 2, VALUE: 3})])
    blocks = {site: random(*batch, SHAPES[site][0], rank, seed=rank) for site, rank in {VALUE: 3, QUERY: 2}.items()}
    flat = frame.flatten(blocks)
    assert flat.shape == (*batch, 7 * 2 + 5 * 3)
    again = frame.unflatten(flat)
    assert list(again) == [QUERY, VALUE] == list(frame.sizes)
    assert all(torch.equal(again[site], blocks[site]) for site in blocks)


# --- refusals -------------------------------------------------------------------------------------------------------


def test_no_adapters_make_no_frame():
    with pytest.raises(ZooError, match="at least one"):
        Frame.fit([])


def test_adapters_of_other_shapes_are_refused():
    frame = Frame.fit([make(1)])
    wide = Lora.from_factors({QUERY: torch.ones(2, 11)}, {QUERY: torch.ones(7, 2)}, base_model_name_or_path="tiny")
    tall = Lora.from_factors({QUERY: torch.ones(2, 10)}, {QUERY: torch.ones(8, 2)}, base_model_name_or_path="tiny")
    for odd, shapes in ((wide, r"\(7, 10\), \(7, 11\)"), (tall, r"\(7, 10\), \(8, 10\)")):
        with pytest.raises(AdapterError, match=f"agree on '{QUERY}'.*{shapes}"):
            Frame.fit([make(1), odd])
        with pytest.raises(AdapterError, match=f"{QUERY}.*the frame 10 to 7"):
            frame.coordinates(odd)


def test_an_unknown_site_is_refused():
    frame = Frame.fit([make(1, {QUERY: 2})])
    with pytest.raises(AdapterError, match=f"'{VALUE}'.*not among the frame's 1 sites"):
        frame.coordinates(make(2))


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_keep_order_and_values(tmp_path):
    # Neither natural nor alphabetical order, nor that of the file format, which sorts by size.
    sites = {f"layer.{i}.query": (i % 3 + 2, i % 4 + 2) for i in (2, 10, 1, 7, 3, 11, 0)}
    frame = Frame(
        {site: random(2, size, seed=size) for site, (_, size) in sites.items()},
        {site: out for site, (out, _) in sites.items()},
    )
    path = tmp_path / "frame.safetensors"
    path.write_bytes(frame.to_bytes())
    loaded = Frame.load(path)
    assert list(loaded.lora_A) == list(loaded.out_features) == list(sites)
    assert loaded.out_features == frame.out_features
    assert all(torch.equal(loaded.lora_A[site], frame.lora_A[site]) for site in sites)
    coordinates = random(frame.size, seed=3)
    assert_same_update(loaded.adapter(coordinates, base=None), frame.adapter(coordinates, base=None))


def test_equal_frames_give_equal_bytes():
    sites = [f"layer.{i}.query" for i in range(20)]
    frame = Frame({site: torch.ones(2, 3) for site in sites}, dict.fromkeys(sites, 4))
    assert len({frame.to_bytes() for _ in range(5)}) == 1


def test_sites_may_share_an_a(tmp_path):
    a = random(6, 2, seed=1).T  # not contiguous either
    frame = Frame({QUERY: a, VALUE: a}, {QUERY: 3, VALUE: 4})
    (tmp_path / "frame").write_bytes(frame.to_bytes())
    assert all(torch.equal(loaded, a) for loaded in Frame.load(tmp_path / "frame").lora_A.values())


def damaged_files():
    from safetensors.torch import save

    whole = Frame.fit([make(1)]).to_bytes()
    return {
        "missing": None,
        "empty": b"",
        "truncated": whole[:-10],
        "no safetensors": b"a frame, they said" * 10,
        "no metadata": save({QUERY: torch.ones(2, 3)}),
        "broken metadata": save({QUERY: torch.ones(2, 3)}, metadata={"out_features": "{"}),
        "a site without A": save({QUERY: torch.ones(2, 3)}, metadata={"out_features": f'{{"{VALUE}": 3}}'}),
    }


@pytest.mark.parametrize("damage", damaged_files())
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "frame.safetensors"
    content = damaged_files()[damage]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ZooError, match=r"frame\.safetensors cannot be read"):
        Frame.load(path)


def test_mean_coordinates_are_the_mean_update():
    adapters = shared(n=4)
    frame = Frame.fit(adapters)
    mean = torch.stack([frame.coordinates(adapter) for adapter in adapters]).mean(0)
    wanted = weighted_sum(adapters, [1 / 4] * 4)
    assert_same_update(frame.adapter(mean, base="tiny"), wanted)
    assert math.isclose(frame.adapter(mean, base="tiny").norm(), wanted.norm(), rel_tol=1e-5)
