"""Inner products by factors against dense delta weights."""

import pytest
import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.products import cosine, distance, inner_product


def lora(seed, r, sites=("a", "b"), **settings):
    rng = torch.Generator().manual_seed(seed)
    a = {site: torch.randn(r, 7, generator=rng) for site in sites}
    return Lora.from_factors(a, {site: torch.randn(5, r, generator=rng) for site in sites}, **settings)


def dense(adapter, sites=("a", "b")):
    zero = torch.zeros(5, 7)
    parts = [adapter.delta_weight(site) if site in adapter.sites else zero for site in sites]
    return torch.cat([part.flatten() for part in parts]).double()


@pytest.fixture
def pair():
    return lora(0, 2, base_model_name_or_path="x"), lora(1, 4, ("b", "c"), base_model_name_or_path="x")


def test_products_are_those_of_dense_weights_at_any_ranks_and_sites(pair):
    one, other = pair
    sites = ("a", "b", "c")
    x, y = dense(one, sites), dense(other, sites)
    assert inner_product(one, other) == pytest.approx(float(x @ y), rel=1e-5)
    assert distance(one, other) == pytest.approx(float((x - y).norm()), rel=1e-5)
    assert cosine(one, other) == pytest.approx(float(x @ y / x.norm() / y.norm()), rel=1e-5)
    centre = lora(2, 3, base_model_name_or_path="x")
    c = dense(centre, sites)
    wanted = (x - c) @ (y - c) / (x - c).norm() / (y - c).norm()
    assert cosine(one, other, centre=centre) == pytest.approx(float(wanted), rel=1e-4)


def test_an_adapter_is_at_no_distance_from_itself_and_has_no_direction_from_itself(pair):
    one, _ = pair
    assert distance(one, one) == pytest.approx(0, abs=1e-5)
    assert cosine(one, one) == pytest.approx(1)
    assert cosine(one, one, centre=one) == 0
