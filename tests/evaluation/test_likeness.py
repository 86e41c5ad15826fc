import dataclasses
from itertools import product

import pytest
import torch
from evaluation_toys import changed, scaled

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.evaluation.config import ORACLE
from loragen.evaluation.likeness import inner_products, likeness, likenesses_of

SIZES = {"layer.0.query": (6, 5), "layer.1.value": (4, 7)}


def made(seed, *, r=2, sites=tuple(SIZES), scaling=1.0):
    rng = torch.Generator().manual_seed(seed)
    return Lora.from_factors(
        {site: torch.randn(r, SIZES[site][1], generator=rng) for site in sites},
        {site: torch.randn(SIZES[site][0], r, generator=rng) for site in sites},
        base_model_name_or_path="tiny",
        scaling=scaling,
    )


def dense(adapter):
    """All delta weights as one vector; a site that is missing is zero."""
    shapes = SIZES if adapter.sites[0] in SIZES else {site: None for site in adapter.sites}
    parts = [
        adapter.delta_weight(site).double().flatten() if site in adapter.sites else torch.zeros(*shape).flatten()
        for site, shape in shapes.items()
    ]
    return torch.cat([part.double() for part in parts])


def mean_cosine(vectors):
    pairs = [(one, other) for i, one in enumerate(vectors) for j, other in enumerate(vectors) if i != j]
    return float(sum(torch.cosine_similarity(one, other, dim=0) for one, other in pairs) / len(pairs))


# --- inner products ---


def test_inner_products_are_those_of_dense_delta_weights():
    adapters = [made(0), made(1, r=3), made(2, scaling=4.0), made(3, sites=("layer.1.value",)), made(4, r=1)]
    met, vectors = inner_products(adapters), [dense(adapter) for adapter in adapters]
    for (i, one), (j, other) in product(enumerate(vectors), repeat=2):
        assert float(met[i, j]) == pytest.approx(float(one @ other), rel=1e-5, abs=1e-5)


def test_cosines_are_those_of_dense_delta_weights():
    adapters = [made(0), made(1, r=3), made(2, scaling=4.0), made(3, sites=("layer.1.value",))]
    vectors = torch.stack([dense(adapter) for adapter in adapters])
    met = likeness("sg", adapters)
    assert (met.method, met.adapters) == ("sg", 4)
    assert met.cosine == pytest.approx(mean_cosine(vectors), rel=1e-5)
    assert met.centred == pytest.approx(mean_cosine(vectors - vectors.mean(0)), rel=1e-5)


# --- what they say ---


def test_of_adapters_that_are_all_one_nothing_is_left_but_their_mean():
    met = likeness("mean", [made(0)] * 5)
    assert met.cosine == pytest.approx(1)
    assert met.centred is None


def test_a_large_mean_in_common_is_seen_and_taken_away():
    common = scaled(made(0), 10.0)
    adapters = [weighted_sum([common, made(seed)], [1.0, 1.0]) for seed in range(1, 9)]
    met = likeness("icm", adapters)
    assert met.cosine > 0.9
    assert met.centred == pytest.approx(-1 / 7, abs=0.05)


def test_size_does_not_count():
    adapters = [made(seed) for seed in range(3)]
    cosine = likeness("sg", adapters).cosine
    assert likeness("sg", [adapters[0], scaled(adapters[1], 7.0), adapters[2]]).cosine == pytest.approx(cosine)


@pytest.mark.parametrize("adapters", [[made(0)], [scaled(made(0), 0.0)] * 3, [made(0), scaled(made(0), 0.0)]])
def test_without_two_adapters_that_change_anything_there_is_no_cosine(adapters):
    assert likeness("sg", adapters).cosine is None


# --- of an evaluation ---


def test_each_generators_adapters_of_the_evaluated_tasks_are_compared(whole, config):
    workspace = dataclasses.replace(whole.workspace, config=changed(config, condition={"means": ()}))
    steps = []
    found = {one.method: one for one in likenesses_of(workspace, lambda *step: steps.append(step))}
    assert list(found) == [*config.generators, ORACLE]
    assert steps == [("cosines", done, 20) for done in range(0, 24, 4)]
    for method in ("topk", "sg"):
        asked = [whole.asked[method][i].adapter for i, cell in enumerate(_of(whole, method)) if _is_first(cell)]
        vectors = torch.stack([torch.cat([a.delta_weight(s).double().flatten() for s in a.sites]) for a in asked])
        assert found[method].cosine == pytest.approx(mean_cosine(vectors), rel=1e-4)
        assert found[method].centred == pytest.approx(mean_cosine(vectors - vectors.mean(0)), rel=1e-3)
    assert found["mean"].cosine == pytest.approx(1)
    assert found["mean"].centred is None


def test_nothing_is_compared_unless_it_is_asked_for(whole):
    assert whole.workspace.config.condition is None
    assert likenesses_of(whole.workspace) == ()


def _of(whole, method):
    return [cell for cell in whole.cells if cell.method == method]


def _is_first(cell):
    return (cell.control, cell.seed) == ("right", 3)
