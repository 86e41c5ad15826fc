import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loragen.adapters import codec as codec_module
from loragen.adapters.codec import Codec
from loragen.adapters.eight_bits import from_eight_bits, to_eight_bits
from loragen.errors import ZooError

SIZES = {"first": 12, "second": 6, "third": 4}


def spread_samples(n=40, seed=0, sizes=SIZES, rank=None):
    """Samples (n, d), float32, whose sites differ in location and in scale by orders of magnitude."""
    rng = torch.Generator().manual_seed(seed)
    d = sum(sizes.values())
    shape = torch.randn(rank, d, generator=rng) if rank else torch.eye(d)
    samples = torch.randn(n, len(shape), generator=rng) @ shape
    scales = [10.0**-i for i in range(len(sizes)) for _ in range(list(sizes.values())[i])]
    return (samples + 3.0) * torch.tensor(scales)


def parts(values, sizes=SIZES):
    return values.split(list(sizes.values()), dim=-1)


@st.composite
def fitted(draw):
    """Sites of any sizes, samples of any location and scale, and a codec without a basis."""
    sizes = {str(i): size for i, size in enumerate(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))}
    n, seed = draw(st.integers(1, 6)), draw(st.integers(0, 2**31))
    location, spread = draw(st.floats(-100, 100)), draw(st.sampled_from([0.0, 1e-3, 1.0, 1e3]))
    samples = location + spread * torch.randn(n, sum(sizes.values()), generator=torch.Generator().manual_seed(seed))
    return samples, Codec.fit(samples, sizes)


@given(fitted(), st.sampled_from([(), (1,), (3, 2), (0,)]), st.integers(0, 2**31))
def test_decoding_inverts_encoding(pair, batch, seed):
    samples, codec = pair
    x = samples[0] + codec.scale * torch.randn(*batch, codec.size, generator=torch.Generator().manual_seed(seed))
    codes = codec.encode(x)
    assert codes.shape == x.shape
    tolerance = 1e-4 * codec.scale + 1e-6 * (codec.centre.abs() + samples.abs().amax(0))
    assert ((codec.decode(codes) - x).abs() <= tolerance).all()
    assert torch.allclose(codec.encode(codec.decode(codes)), codes, atol=1e-3)


@pytest.mark.parametrize("components", [None, 1, 5, 100])
def test_codes_of_the_samples_have_a_mean_square_of_one(components):
    samples = spread_samples(rank=8)
    codes = Codec.fit(samples, SIZES, components=components).encode(samples)
    assert codes.shape == (len(samples), {None: 22, 1: 1, 5: 5, 100: 8}[components])
    assert float(codes.square().mean()) == pytest.approx(1, rel=1e-4)
    assert torch.allclose(codes.mean(0), torch.zeros(codes.shape[1]), atol=1e-4)


def test_a_site_that_stands_still_takes_no_share_of_the_mean_square():
    samples = spread_samples()
    samples[:, 12:] = 7.0
    codec = Codec.fit(samples, SIZES)
    assert float(codec.encode(samples).square().mean()) == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("components", [None, 5])
def test_sites_weigh_alike_and_are_scaled_as_a_whole(components):
    samples = spread_samples()
    codec = Codec.fit(samples, SIZES, components=components)
    scaled = (samples - samples.mean(0)) / codec.scale
    squares = torch.stack([part.square().mean() for part in parts(scaled)])
    assert torch.allclose(squares, squares[0].expand(3), rtol=1e-4)
    assert all(len(part.unique()) == 1 for part in parts(codec.scale))
    assert codec.scale.shape == (22,)


def test_the_basis_spans_the_principal_subspace():
    samples = spread_samples(rank=8)
    codec = Codec.fit(samples, SIZES, components=3)
    assert torch.allclose(codec.basis @ codec.basis.T, torch.eye(3), atol=1e-5)
    scaled = ((samples - samples.mean(0)) / codec.scale).double()
    covariance = scaled.T @ scaled
    leading = torch.linalg.eigh(covariance).eigenvectors[:, -3:]
    basis = codec.basis.double()
    assert torch.allclose(basis.T @ basis, leading @ leading.T, atol=1e-4)


def test_decoding_projects_on_the_subspace():
    samples = spread_samples(rank=8)
    codec = Codec.fit(samples, SIZES, components=3)
    x = spread_samples(n=5, seed=1)
    once = codec.decode(codec.encode(x))
    assert not torch.allclose(once, x, rtol=1e-2)
    assert torch.allclose(codec.decode(codec.encode(once)), once, atol=1e-4)
    codes = torch.randn(7, 3, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(codec.encode(codec.decode(codes)), codes, atol=1e-4)


def test_enough_components_hold_the_samples():
    samples = spread_samples(rank=8)
    codec = Codec.fit(samples, SIZES, components=100)
    assert codec.size == 8, "directions that carry nothing are not kept"
    assert torch.allclose(codec.decode(codec.encode(samples)), samples, rtol=1e-3, atol=1e-4)


def test_energy_kept():
    samples = spread_samples(rank=8)
    some, every, none = (Codec.fit(samples, SIZES, components=k) for k in (3, 100, None))
    kept = some.energy_kept(samples)
    scaled = (samples - some.centre) / some.scale
    lost = (scaled - scaled @ some.basis.T @ some.basis).square().sum(1) / scaled.square().sum(1)
    assert torch.allclose(kept, 1 - lost, atol=1e-4)
    assert kept.min() < 0.9
    for whole in (every, none):
        assert torch.allclose(whole.energy_kept(samples), torch.ones(len(samples)), atol=1e-4)
    at_the_centre = some.centre[None]
    assert some.energy_kept(at_the_centre).tolist() == [1.0], "nothing is lost of nothing"


@pytest.mark.parametrize("components", [None, 4])
def test_variances_are_the_diagonal_of_the_covariance(components):
    codec = Codec.fit(spread_samples(rank=8), SIZES, components=components)
    variance = torch.rand(2, 22, generator=torch.Generator().manual_seed(3)) * codec.scale.square()
    linear = torch.diag(1 / codec.scale.double())  # the matrix that encode applies to x - centre
    linear = linear if codec.basis is None else codec.basis.double() @ linear
    wanted = torch.stack([(linear @ torch.diag(row.double()) @ linear.T).diagonal() for row in variance])
    assert torch.allclose(codec.encode_variance(variance).double(), wanted, rtol=1e-4)


def test_variances_are_those_of_random_draws():
    codec = Codec.fit(spread_samples(rank=8), SIZES, components=4)
    rng = torch.Generator().manual_seed(4)
    deviation = torch.rand(22, generator=rng) * codec.scale
    codes = codec.encode(codec.centre + 5.0 + deviation * torch.randn(100_000, 22, generator=rng))
    assert torch.allclose(codec.encode_variance(deviation.square()), codes.var(0), rtol=0.03)


@pytest.mark.parametrize("components", [None, 5])
def test_sites_that_stand_still_do_no_harm(components):
    samples = spread_samples()
    samples[:, 12:] = 0.1  # a value whose float32 mean over 40 samples is not itself
    codec = Codec.fit(samples, SIZES, components=components)
    assert torch.equal(codec.centre[12:], samples[0, 12:])
    codes = codec.encode(samples)
    assert codes.isfinite().all()
    assert codes.abs().max() < 10
    elsewhere = samples.clone()
    elsewhere[:, 12:] = 0.2
    assert codec.encode(elsewhere).abs().max() < 1e5
    assert codec.encode_variance(torch.full((22,), 1e-2)).isfinite().all()
    # What a generator gets wrong by a whole unit of code moves such a site next to nothing.
    moved = codec.decode(codes + 1) - codec.decode(codes)
    assert moved[:, 12:].abs().max() < 1e-3 * moved[:, :12].abs().max()


@pytest.mark.parametrize("components", [None, 5])
@pytest.mark.parametrize("n", [1, 3])
def test_samples_that_are_all_equal(components, n):
    samples = spread_samples(n=1).expand(n, -1)
    codec = Codec.fit(samples, SIZES, components=components)
    assert codec.size == (22 if components is None else 1)
    assert torch.equal(codec.encode(samples), torch.zeros(n, codec.size))
    assert torch.equal(codec.decode(codec.encode(samples)), samples)


@pytest.mark.parametrize("components", [None, 5])
def test_tensors_restore_the_codec(components):
    samples = spread_samples()
    codec = Codec.fit(samples, SIZES, components=components)
    restored = Codec.from_tensors({"network.weight": torch.ones(2), **codec.tensors()})
    assert restored.size == codec.size
    assert torch.equal(restored.encode(samples), codec.encode(samples))
    assert all(name.startswith("codec.") and value.is_contiguous() for name, value in codec.tensors().items())


# --- a z-score per tensor -------------------------------------------------------------------------------------------


def test_each_tensor_has_mean_zero_and_deviation_one():
    samples = spread_samples() * torch.linspace(1, 3, 22)  # coordinates of one tensor differ as well
    codec = Codec.per_tensor(samples, SIZES)
    for part, code in zip(parts(samples), parts(codec.encode(samples)), strict=True):
        assert float(code.mean()) == pytest.approx(0, abs=1e-4)
        assert float(code.std(correction=0)) == pytest.approx(1, rel=1e-4)
        assert torch.allclose(code, (part - part.mean()) / part.std(correction=0), atol=1e-3)
    assert all(len(part.unique()) == 1 for values in (codec.centre, codec.scale) for part in parts(values))
    assert codec.centre.shape == codec.scale.shape == (22,)
    assert codec.basis is None


@given(st.integers(1, 40), st.sampled_from([(), (1,), (3, 2)]), st.integers(0, 2**31))
def test_decoding_inverts_encoding_per_tensor(n, batch, seed):
    codec = Codec.per_tensor(spread_samples(n, seed), SIZES)
    x = codec.centre + 3 * codec.scale * torch.randn(*batch, 22, generator=torch.Generator().manual_seed(seed))
    codes = codec.encode(x)
    assert codes.shape == x.shape
    assert ((codec.decode(codes) - x).abs() <= 1e-6 * (codec.centre.abs() + x.abs())).all()


def test_a_constant_tensor_gets_a_floor():
    samples = spread_samples()
    samples[:, 12:18] = 0.1
    codec = Codec.per_tensor(samples, SIZES)
    constant = parts(codec.scale)[1]
    assert torch.allclose(constant, 1e-4 * samples.square().mean().sqrt())
    assert torch.equal(codec.encode(samples)[:, 12:18], torch.zeros(40, 6))
    # What a generator gets wrong by a whole unit of code moves such a tensor next to nothing.
    codes = codec.encode(samples)
    moved = codec.decode(codes + 1) - codec.decode(codes)
    assert moved[:, 12:18].abs().max() < 1e-3 * moved[:, :12].abs().max()


def test_tensors_that_are_all_zero_are_left_alone():
    codec = Codec.per_tensor(torch.zeros(3, 22), SIZES)
    assert torch.equal(codec.scale, torch.ones(22))
    assert torch.equal(codec.encode(torch.ones(22)), torch.ones(22))


def test_one_sample_is_enough_for_a_z_score_per_tensor():
    sample = spread_samples(n=1)[0]
    codec, of_a_batch = Codec.per_tensor(sample, SIZES), Codec.per_tensor(sample[None], SIZES)
    assert torch.equal(codec.centre, of_a_batch.centre)
    assert torch.equal(codec.scale, of_a_batch.scale)
    assert all(float(code.std(correction=0)) == pytest.approx(1, rel=1e-4) for code in parts(codec.encode(sample)))


def test_tensors_restore_a_z_score_per_tensor():
    samples = spread_samples()
    codec = Codec.per_tensor(samples, SIZES)
    assert torch.equal(Codec.from_tensors(codec.tensors()).encode(samples), codec.encode(samples))


# --- millions of coordinates ----------------------------------------------------------------------------------------


MANY = {"first": 2900, "second": 1700, "third": 1}


def at_once(monkeypatch, samples, sizes, components):
    """The codec that an SVD of all codes at once gives, in double precision."""
    with monkeypatch.context() as patch:
        patch.setattr(codec_module, "_FEW", math.inf)
        patch.setattr(codec_module, "_CHUNK", sum(sizes.values()))
        return Codec.fit(samples.double(), sizes, components=components)


@pytest.mark.parametrize("components", [None, 3, 100])
@pytest.mark.parametrize("kind", ["random", "each twice", "a site stands still", "weak directions"])
def test_few_samples_of_many_coordinates_give_what_an_svd_gives(monkeypatch, components, kind):
    monkeypatch.setattr(codec_module, "_CHUNK", 1000)
    samples = spread_samples(n=9, sizes=MANY, rank=6) * torch.linspace(1, 2, sum(MANY.values()))
    if kind == "each twice":
        samples = samples.repeat(2, 1)
    elif kind == "a site stands still":
        samples[:, 2900:4600] = 0.1
    elif kind == "weak directions":
        # Two thousandths of the others, and noise far below what carries anything.
        left, singular, right = torch.linalg.svd(samples - samples.mean(0), full_matrices=False)
        singular[4:6] = 2e-3 * singular[0]
        singular[6:] = 1e-6 * singular[0]
        samples = left * singular @ right
    fast, slow = Codec.fit(samples, MANY, components=components), at_once(monkeypatch, samples, MANY, components)
    assert fast.size == slow.size
    torch.testing.assert_close(fast.centre.double(), slow.centre)
    torch.testing.assert_close(fast.scale.double(), slow.scale)
    if components is not None:
        basis = fast.basis.double()
        torch.testing.assert_close(basis @ basis.T, torch.eye(fast.size).double(), atol=1e-6, rtol=0)
        signs = (basis * slow.basis).sum(1).sign()  # a singular vector may point either way
        torch.testing.assert_close(basis, signs[:, None] * slow.basis, atol=1e-6, rtol=1e-4)
        codes = signs * slow.encode(samples.double())
        torch.testing.assert_close(fast.encode(samples).double(), codes, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n", [1, 3])
def test_many_coordinates_that_are_all_equal(n):
    samples = spread_samples(n=1, sizes=MANY).expand(n, -1)
    codec = Codec.fit(samples, MANY, components=5)
    assert torch.equal(codec.encode(samples), torch.zeros(n, 1))
    assert torch.equal(codec.decode(codec.encode(samples)), samples)
    assert float(codec.basis.norm()) == pytest.approx(1)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
def test_coordinates_are_encoded_a_part_at_a_time(monkeypatch, batch):
    codec = Codec.fit(spread_samples(rank=8), SIZES, components=5)
    x = codec.centre + codec.scale * torch.randn(*batch, 22, generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(codec_module, "_CHUNK", 7)
    torch.testing.assert_close(codec.encode(x), ((x - codec.centre) / codec.scale) @ codec.basis.T)
    wanted = (x.square() / codec.scale**2) @ codec.basis.T.square()
    torch.testing.assert_close(codec.encode_variance(x.square()), wanted)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1_000])
@pytest.mark.parametrize("rows", [1, 70])
def test_eight_bits_lose_little_and_what_was_rounded_is_rounded_to_itself(rows, length):
    matrix = (
        torch.randn(rows, length, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 2, rows)[:, None]
    )
    numbers, steps = to_eight_bits(matrix)
    assert numbers.dtype == torch.int8
    rounded = from_eight_bits(numbers, steps)
    assert rounded.shape == matrix.shape
    off = (rounded - matrix).norm(dim=1) / matrix.norm(dim=1)
    assert float(off.max()) < 0.012
    again = to_eight_bits(rounded)
    assert torch.equal(again[0], numbers)
    assert torch.equal(from_eight_bits(*again), rounded)


def test_zeros_stay_zeros_in_eight_bits():
    assert not from_eight_bits(*to_eight_bits(torch.zeros(3, 100))).any()


def test_a_codec_in_eight_bits_is_stored_in_them_and_decodes_nearly_the_same():
    samples = spread_samples(rank=8)
    whole = Codec.fit(samples, SIZES, components=8)
    codec = whole.in_eight_bits()
    stored = codec.tensors()
    assert stored["codec.basis"].dtype == torch.int8
    loaded = Codec.from_tensors(stored)
    assert loaded.eight_bits
    assert torch.equal(loaded.basis, codec.basis)
    assert float((codec.basis - whole.basis).norm() / whole.basis.norm()) < 0.012
    back = (codec.decode(codec.encode(samples)) - samples) / whole.scale
    assert float(back.norm()) < 0.03 * float(((samples - whole.centre) / whole.scale).norm())
    assert codec.in_eight_bits() is codec


@pytest.mark.parametrize("steps", [torch.ones(3), torch.ones(8, 1)])
def test_steps_that_do_not_fit_their_basis_are_refused(steps):
    stored = Codec.fit(spread_samples(rank=8), SIZES, components=8).in_eight_bits().tensors()
    with pytest.raises(ZooError, match="steps of shape"):
        Codec.from_tensors(stored | {"codec.basis_steps": steps})
