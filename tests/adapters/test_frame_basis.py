"""A frame with a basis of what is written as well: an adapter is B C A, and C, site by site, its coordinates."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.errors import AdapterError, ZooError

QUERY, VALUE = "layer.0.query", "layer.0.value"
SHAPES = {QUERY: (7, 10), VALUE: (5, 9)}  # (out, in)
RANKS = {QUERY: (3, 4), VALUE: (2, 3)}  # (Q, R)


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(rows, columns, seed):
    return torch.linalg.qr(random(rows, columns, seed=seed))[0]


def framed(*, is_orthonormal=True, seed=0):
    made = orthonormal if is_orthonormal else lambda *shape, seed: random(*shape, seed=seed)
    a = {site: made(width, RANKS[site][1], seed=seed + 1).T.contiguous() for site, (_, width) in SHAPES.items()}
    b = {site: made(out, RANKS[site][0], seed=seed + 2) for site, (out, _) in SHAPES.items()}
    return Frame(a, {site: out for site, (out, _) in SHAPES.items()}, b)


def foreign(seed, rank=3, scaling=2.0):
    a = {site: random(rank, width, seed=seed) for site, (_, width) in SHAPES.items()}
    b = {site: random(out, rank, seed=seed + 50) for site, (out, _) in SHAPES.items()}
    return Lora.from_factors(a, b, base_model_name_or_path="tiny", scaling=scaling)


def projected(frame, delta, site):
    a, b = frame.lora_A[site].double(), frame.lora_B[site].double()
    return b @ torch.linalg.pinv(b) @ delta.double() @ torch.linalg.pinv(a) @ a


def assert_same(met, wanted):
    torch.testing.assert_close(met.double(), wanted.double(), rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_the_cores():
    frame = framed()
    assert frame.sizes == {QUERY: 12, VALUE: 6}
    assert frame.size == 18
    blocks = frame.unflatten(torch.arange(36.0).reshape(2, 18))
    assert {site: block.shape for site, block in blocks.items()} == {QUERY: (2, 3, 4), VALUE: (2, 2, 3)}
    assert torch.equal(frame.flatten(blocks), torch.arange(36.0).reshape(2, 18))


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.booleans())
def test_what_lies_in_the_bases_is_given_back(seed, is_orthonormal):
    frame = framed(is_orthonormal=is_orthonormal, seed=seed % 1000)
    cores = random(frame.size, seed=seed)
    adapter = frame.adapter(cores, base="tiny", task_type="FEATURE_EXTRACTION")
    for site, core in frame.unflatten(cores).items():
        assert_same(adapter.delta_weight(site), frame.lora_B[site] @ core @ frame.lora_A[site])
        assert adapter.lora_B[site].shape == (SHAPES[site][0], RANKS[site][1])
    torch.testing.assert_close(frame.coordinates(adapter), cores, rtol=2e-3, atol=2e-3)
    assert frame.energy_kept(adapter) == pytest.approx(1, abs=1e-4)


@settings(max_examples=30)
@given(st.integers(0, 2**31), st.integers(1, 5), st.booleans())
def test_of_a_foreign_adapter_the_projection_is_held(seed, rank, is_orthonormal):
    frame, adapter = framed(is_orthonormal=is_orthonormal), foreign(seed % 10_000, rank)
    held = frame.adapter(frame.coordinates(adapter), base=None)
    total = kept = 0.0
    for site in SHAPES:
        delta = adapter.delta_weight(site)
        wanted = projected(frame, delta, site)
        assert_same(held.delta_weight(site), wanted)
        total, kept = total + float(delta.double().square().sum()), kept + float(wanted.square().sum())
    assert frame.energy_kept(adapter) == pytest.approx(kept / total, abs=1e-4)
    assert frame.energy_kept(adapter) < 1
    assert frame.energy_kept(held) == pytest.approx(1, abs=1e-4)


def test_over_its_own_a_what_is_written_is_still_projected():
    frame = framed()
    b = {site: random(out, RANKS[site][1], seed=5) for site, (out, _) in SHAPES.items()}
    adapter = Lora.from_factors(frame.lora_A, b, base_model_name_or_path=None)
    cores = frame.unflatten(frame.coordinates(adapter))
    for site in SHAPES:
        assert_same(cores[site], frame.lora_B[site].T @ b[site])
    assert 0 < frame.energy_kept(adapter) < 0.9


def test_a_site_that_is_missing_has_a_core_of_zeros():
    frame, whole = framed(), foreign(3)
    part = Lora.from_factors({QUERY: whole.lora_A[QUERY]}, {QUERY: whole.lora_B[QUERY]}, base_model_name_or_path=None)
    assert not frame.unflatten(frame.coordinates(part))[VALUE].any()


def test_factors_have_a_gradient_in_the_coordinates():
    frame = framed()
    cores = random(frame.size, seed=1).requires_grad_()
    target = {site: random(*shape, seed=9) for site, shape in SHAPES.items()}
    sum((b @ a * target[site]).sum() for site, (a, b) in frame.factors(cores).items()).backward()
    wanted = frame.flatten({s: frame.lora_B[s].T @ target[s] @ frame.lora_A[s].T for s in SHAPES})
    torch.testing.assert_close(cores.grad, wanted, rtol=1e-4, atol=1e-5)
    plain = Frame(frame.lora_A, frame.out_features)
    free = random(plain.size, seed=2)
    assert all(torch.equal(b, plain.unflatten(free)[site]) for site, (_, b) in plain.factors(free).items())


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(AdapterError, match=r"maps 9 to 7 features at 'layer.0.value', the frame 9 to 5"):
        framed().coordinates(
            Lora.from_factors({VALUE: torch.ones(2, 9)}, {VALUE: torch.ones(7, 2)}, base_model_name_or_path=None)
        )


def test_a_file_holds_both_bases(tmp_path):
    frame = framed()
    (tmp_path / "frame.safetensors").write_bytes(frame.to_bytes())
    loaded = Frame.load(tmp_path / "frame.safetensors")
    assert loaded.sizes == frame.sizes
    for site in SHAPES:
        assert torch.equal(loaded.lora_A[site], frame.lora_A[site])
        assert torch.equal(loaded.lora_B[site], frame.lora_B[site])
    assert len({framed().to_bytes() for _ in range(5)}) == 1
    plain = Frame(frame.lora_A, frame.out_features)
    (tmp_path / "plain.safetensors").write_bytes(plain.to_bytes())
    assert Frame.load(tmp_path / "plain.safetensors").lora_B is None
    assert load_file(tmp_path / "plain.safetensors").keys() == SHAPES.keys()


@pytest.mark.parametrize("damage", ["missing", "other rows", "a vector", "whole numbers"])
def test_a_file_whose_bases_do_not_fit_is_refused(tmp_path, damage):
    path = tmp_path / "frame.safetensors"
    path.write_bytes(framed().to_bytes())
    tensors = load_file(path)
    match damage:
        case "missing":
            del tensors[f"{VALUE}.lora_B"]
        case "other rows":
            tensors[f"{VALUE}.lora_B"] = torch.ones(6, 2)
        case "a vector":
            tensors[f"{VALUE}.lora_B"] = torch.ones(5)
        case "whole numbers":
            tensors[f"{VALUE}.lora_B"] = torch.ones(5, 2, dtype=torch.long)
    path.write_bytes(save(tensors, metadata={"out_features": f'{{"{QUERY}": 7, "{VALUE}": 5}}'}))
    with pytest.raises(ZooError, match=r"frame\.safetensors cannot be read"):
        Frame.load(path)


def test_rounding_takes_both_bases():
    rounded = framed().rounded()
    for factors, exact in ((rounded.lora_A, framed().lora_A), (rounded.lora_B, framed().lora_B)):
        for site in SHAPES:
            assert torch.equal(factors[site], exact[site].bfloat16().float())
            assert not torch.equal(factors[site], exact[site])
