"""Ranks lowered and raised: against dense singular value decompositions, and in PEFT."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mergeable import QUERY, SHAPES, VALUE, generator, is_update, make, mixed
from models import tiny_bert

from loragen.adapters.adapter import Lora
from loragen.adapters.spectrum import Spectrum
from loragen.adapters.squeeze import canonical, grow, squeeze
from loragen.errors import AdapterError

# PEFT asks transformers for an attribute that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@st.composite
def foreign(draw):
    """An adapter of any ranks and scaling."""
    return make(
        draw(st.integers(0, 99)),
        draw(st.dictionaries(st.sampled_from(sorted(SHAPES)), st.integers(1, 20), min_size=1)),
        lora_alpha=draw(st.sampled_from([0.5, 3, 16])),
        use_rslora=draw(st.booleans()),
        alpha_pattern=draw(st.sampled_from([{}, {"query": 5}])),
    )


def deltas(adapter):
    return {site: adapter.delta_weight(site).double() for site in adapter.sites}


def norm(updates):
    return math.sqrt(sum(float(delta.square().sum()) for delta in updates.values()))


def dense_best(adapter, rank):
    """Site → the nearest matrix of a rank, by a dense decomposition."""
    best = {}
    for site, delta in deltas(adapter).items():
        left, singular, right = torch.linalg.svd(delta, full_matrices=False)
        best[site] = left[:, :rank] * singular[:rank] @ right[:rank]
    return best


@settings(max_examples=25)
@given(adapter=foreign(), rank=st.integers(1, 20))
def test_the_error_told_is_the_one_made_and_the_least_there_is(adapter, rank):
    squeezed = squeeze(adapter, rank=rank)
    whole, made = deltas(adapter), deltas(squeezed.adapter)
    error = norm({site: whole[site] - made[site] for site in whole}) / norm(whole)
    assert squeezed.relative_error == pytest.approx(error, abs=1e-6)
    assert squeezed.energy_kept == pytest.approx(1 - error**2, abs=1e-6)
    assert is_update(squeezed.adapter, dense_best(adapter, rank))
    for site, facts in squeezed.sites.items():
        assert facts.r == len(squeezed.adapter.lora_A[site]) == min(rank, len(adapter.lora_A[site]), *SHAPES[site])
        assert facts.energy == pytest.approx(norm({site: whole[site]}) ** 2, rel=1e-5)
        assert facts.kept == pytest.approx(norm({site: made[site]}) ** 2 / facts.energy, abs=1e-6)


@settings(max_examples=25)
@given(adapter=foreign(), energy=st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]))
def test_an_energy_is_kept_at_every_site_by_the_smallest_rank(adapter, energy):
    squeezed = squeeze(adapter, energy=energy)
    for site, facts in squeezed.sites.items():
        squares = torch.linalg.svdvals(adapter.delta_weight(site).double()).square()
        share = float(squares[: facts.r].sum() / squares.sum())
        assert share >= energy - 1e-9
        assert facts.r == 1 or float(squares[: facts.r - 1].sum() / squares.sum()) < energy
        assert facts.kept == pytest.approx(share, abs=1e-6)
    assert squeezed.energy_kept >= energy - 1e-9


@settings(max_examples=25)
@given(adapter=foreign())
def test_the_canonical_form_is_balanced_ordered_of_fixed_signs_and_the_same_update(adapter):
    form = canonical(adapter)
    assert is_update(form, deltas(adapter))
    for site in form.sites:
        a, b = form.scaled_factors(site)
        singular = torch.linalg.svdvals(adapter.delta_weight(site))[: len(a)]
        scale = float(singular[0])
        assert len(a) == min(len(adapter.lora_A[site]), *SHAPES[site])
        torch.testing.assert_close(a @ a.T, torch.diag(singular), rtol=0, atol=1e-5 * scale)
        torch.testing.assert_close(b.T @ b, torch.diag(singular), rtol=0, atol=1e-5 * scale)
        assert (a.amax(1) >= 0.998 * a.abs().amax(1)).all()


def is_same(one, other, atol=1e-4):
    return one.spec == other.spec and all(
        torch.allclose(one.lora_A[site], other.lora_A[site], atol=atol)
        and torch.allclose(one.lora_B[site], other.lora_B[site], atol=atol)
        for site in one.sites
    )


@pytest.mark.parametrize("adapter", mixed(), ids=["alpha", "rslora", "pattern"])
def test_the_canonical_form_does_not_depend_on_the_factors_given(adapter):
    rng = generator(4)
    turns = {site: torch.randn(len(a), len(a), generator=rng) for site, a in adapter.lora_A.items()}
    turned = Lora(
        adapter.settings,
        {site: turns[site] @ a for site, a in adapter.lora_A.items()},
        {site: b @ torch.linalg.inv(turns[site]) for site, b in adapter.lora_B.items()},
    )
    form = canonical(adapter)
    assert not is_same(turned, adapter)
    assert is_same(canonical(turned), form)
    assert is_same(canonical(form), form, atol=1e-6)
    for rank in (1, 2, 3):
        once = squeeze(adapter, rank=rank).adapter
        assert is_same(squeeze(form, rank=rank).adapter, once, atol=1e-6)
        assert is_same(squeeze(once, rank=rank).adapter, once, atol=1e-6)
        assert squeeze(once, rank=rank).relative_error < 1e-6


def test_signs_do_not_hang_on_rounding_where_entries_are_equal():
    row = torch.tensor([[1.0, -1, 1, -1]])
    for scale in (1.0, 0.3, 1 / 7):
        rounded = row * scale * (1 + 1e-7 * torch.tensor([[-1.0, 1, 1, 1]]))
        form = canonical(Lora.from_factors({"q": -rounded}, {"q": torch.ones(3, 1)}, base_model_name_or_path="tiny"))
        assert torch.equal(form.lora_A["q"].sign(), row)
        assert (form.lora_B["q"] < 0).all()


def test_ranks_that_hold_nothing_are_zeros_at_a_rank_and_gone_at_an_energy():
    one = make(1)
    lora_a = {site: torch.cat([a, a]) for site, a in one.lora_A.items()}
    lora_b = {site: torch.cat([b, 2 * b], dim=1) for site, b in one.lora_B.items()}
    double = Lora.from_factors(lora_a, lora_b, base_model_name_or_path="tiny")
    form = canonical(double)
    assert all(len(a) == 6 and not a[3:].any() for a in form.lora_A.values())
    assert not any(b[:, 3:].any() for b in form.lora_B.values())
    lossless = squeeze(double, energy=1.0)
    assert {site.r for site in lossless.adapter.spec.sites} == {3}
    assert lossless.relative_error == 0
    assert is_update(lossless.adapter, deltas(double))


def test_an_update_of_zero_stays_one():
    nothing = Lora.from_factors({"q": torch.ones(3, 4)}, {"q": torch.zeros(5, 3)}, base_model_name_or_path="tiny")
    for squeezed, rank in ((squeeze(nothing, rank=2), 2), (squeeze(nothing, energy=0.5), 1)):
        assert squeezed.adapter.norm() == squeezed.relative_error == 0
        assert squeezed.energy_kept == squeezed.sites["q"].kept == 1
        assert len(squeezed.adapter.lora_A["q"]) == rank


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "Neither a rank nor an energy"),
        ({"rank": 2, "energy": 0.5}, "Both a rank and an energy"),
        ({"rank": 0}, "rank asked for is 0"),
        *(({"energy": energy}, "energy to keep is .*above 0 and at most 1") for energy in (0.0, -1.0, 1.1, math.nan)),
    ],
)
def test_what_cannot_be_squeezed_to_is_refused(asked, message):
    with pytest.raises(AdapterError, match=message):
        squeeze(make(1), **asked)


# --- growth ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(adapter=foreign().filter(lambda adapter: max(site.r for site in adapter.spec.sites) <= 12))
def test_growth_changes_the_ranks_alone(adapter):
    whole = grow(adapter, 12, rng=generator(3))
    assert {site.r for site in whole.spec.sites} == {12}
    assert is_update(whole, deltas(adapter))
    for site in whole.sites:
        given = adapter.lora_A[site]
        assert torch.equal(whole.lora_A[site][: len(given)], given)
        assert not whole.lora_B[site][:, len(given) :].any()
        more = whole.lora_A[site][len(given) :]
        length = float(given.norm()) / math.sqrt(len(given))
        torch.testing.assert_close(more @ more.T, length**2 * torch.eye(len(more)), atol=1e-5, rtol=1e-5)
        assert (more @ given.T).abs().max() < 1e-5 if len(more) else True
    form = canonical(adapter)
    for site, a in canonical(whole).lora_A.items():
        torch.testing.assert_close(a[: len(form.lora_A[site])], form.lora_A[site], atol=2e-3, rtol=0)


def test_growth_draws_from_its_generator_alone():
    one, same, other = (grow(make(1), 5, rng=generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one.lora_A[site], same.lora_A[site]) for site in SHAPES)
    assert not any(torch.equal(one.lora_A[site], other.lora_A[site]) for site in SHAPES)


@pytest.mark.parametrize("rank", [2, 17])
def test_growth_to_a_lower_rank_or_beyond_the_features_is_refused(rank):
    with pytest.raises(AdapterError, match=f"has rank 3 and reads 16 features, .* to rank {rank}; .*squeeze"):
        grow(make(1, {QUERY: 3, VALUE: 3}), rank, rng=generator())


# --- dense and in factors, and in PEFT ------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(16, 32), (32, 16), (16, 16)])
@pytest.mark.parametrize("most", [None, 3])
def test_the_decomposition_of_a_product_is_that_of_its_factors(shape, most):
    rng = generator(2)
    a, b = torch.randn(6, shape[1], generator=rng), torch.randn(shape[0], 6, generator=rng)
    dense, low = Spectrum.of_dense(b.double() @ a.double(), most=most), Spectrum.of_factors(a, b)
    assert dense.rank() == low.rank() == 6
    assert dense.energy == pytest.approx(low.energy)
    torch.testing.assert_close(dense.singular[:6], low.singular)
    assert dense.lost(3) == pytest.approx(low.lost(3))
    for rank in (1, 3):
        for met, wanted in zip(dense.factors(rank), low.factors(rank), strict=True):
            torch.testing.assert_close(met, wanted, atol=1e-5, rtol=1e-5)
    assert len(dense.factors(20)[0]) == (3 if most else 16)


def peft_model(adapter, folder):
    from peft import PeftModel

    adapter.save(folder)
    return PeftModel.from_pretrained(tiny_bert(), folder).eval()


def outputs(model):
    tokens = torch.arange(1, 25).reshape(2, 12)
    with torch.no_grad():
        return model(tokens, attention_mask=torch.ones_like(tokens))[0]


def test_peft_gives_the_same_outputs_with_ragged_ranks_and_picks_the_same(tmp_path):
    from peft import convert_to_lora

    adapter = mixed()[0]
    plain = peft_model(adapter, tmp_path / "plain")
    torch.testing.assert_close(
        outputs(peft_model(canonical(adapter), tmp_path / "form")), outputs(plain), atol=1e-5, rtol=1e-5
    )
    small = squeeze(adapter, energy=0.7).adapter
    ranks = {site.name: site.r for site in small.spec.sites}
    assert len(set(ranks.values())) > 1
    with pytest.warns(UserWarning, match="already a LoRA adapter"):
        config, _ = convert_to_lora(plain, rank=0.7)
    assert {site: config.rank_pattern.get(site, config.r) for site in SHAPES} == ranks
    dense = tiny_bert().eval()
    for site, rank in ranks.items():
        dense.get_submodule(site).weight.data += dense_best(adapter, rank)[site].float()
    met = outputs(peft_model(small, tmp_path / "small"))
    torch.testing.assert_close(met, outputs(dense), atol=1e-5, rtol=1e-5)
