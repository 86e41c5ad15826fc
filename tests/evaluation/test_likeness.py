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
    zero = {site: torch.zeros(shape) for site, shape in SIZES.items()}
    made_ = {site: adapter.delta_weight(site) for site in adapter.sites}
    return torch.cat([delta.double().flatten() for delta in (zero | made_).values()])


def everything(adapter):
    """All delta weights of an adapter that has every site."""
    return torch.cat([adapter.delta_weight(site).double().flatten() for site in adapter.sites])


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
    mean = made(9, r=4)
    met = likeness("sg", adapters, mean)
    assert (met.method, met.tasks) == ("sg", 4)
    assert met.cosine == pytest.approx(mean_cosine(vectors), rel=1e-5)
    assert met.centred == pytest.approx(mean_cosine(vectors - dense(mean)), rel=1e-5)


# --- what they say ---


def test_of_copies_of_the_mean_expert_nothing_is_left():
    met = likeness("mean", [made(0)] * 5, made(0))
    assert met.cosine == pytest.approx(1)
    assert met.centred is None


def test_what_differs_from_the_mean_expert_by_rounding_alone_is_a_copy():
    rounded = [scaled(made(0), 1 + 1e-7 * number) for number in range(3)]
    assert likeness("mean", rounded, made(0)).centred is None


def test_what_is_in_common_with_the_mean_expert_is_seen_and_taken_away():
    common = scaled(made(0), 10.0)
    adapters = [weighted_sum([common, made(seed)], [1.0, 1.0]) for seed in range(1, 9)]
    met = likeness("icm", adapters, common)
    assert met.cosine > 0.9
    assert met.centred == pytest.approx(mean_cosine([dense(made(seed)) for seed in range(1, 9)]), abs=1e-4)
    assert abs(met.centred) < 0.2


def test_one_adapter_for_all_tasks_is_told_from_the_mean_expert():
    met = likeness("constant", [made(1)] * 4, made(0))
    assert met.centred == pytest.approx(1)


def test_size_does_not_count():
    adapters = [made(seed) for seed in range(3)]
    longer = [adapters[0], scaled(adapters[1], 7.0), adapters[2]]
    cosines = [likeness("sg", some, made(9)).cosine for some in (adapters, longer)]
    assert cosines[0] == pytest.approx(cosines[1])


@pytest.mark.parametrize("adapters", [[made(0)], [scaled(made(0), 0.0)] * 3, [made(0), scaled(made(0), 0.0)]])
def test_without_two_adapters_that_change_anything_there_is_no_cosine(adapters):
    assert likeness("sg", adapters, made(9)).cosine is None


# --- of an evaluation ---


def test_each_generators_adapters_of_the_evaluated_tasks_are_compared(whole, config):
    workspace = dataclasses.replace(whole.workspace, config=changed(config, condition={"means": ()}))
    steps = []
    found = {one.method: one for one in likenesses_of(workspace, lambda *step: steps.append(step))}
    assert list(found) == [*config.generators, ORACLE]
    assert steps == [("cosines", done, 20) for done in range(0, 24, 4)]
    experts = [whole.workspace.zoo.adapter(expert) for expert in whole.workspace.experts.ids]
    mean = torch.stack([everything(expert) for expert in experts]).mean(0)
    for method in ("nearest", "sg"):
        asked = [whole.asked[method][i].adapter for i, cell in enumerate(_of(whole, method)) if _is_first(cell)]
        vectors = torch.stack([everything(adapter) for adapter in asked])
        assert found[method].cosine == pytest.approx(mean_cosine(vectors), rel=1e-4)
        assert found[method].centred == pytest.approx(mean_cosine(vectors - mean), rel=1e-3, abs=1e-4)
    assert found["mean"].cosine == pytest.approx(1)
    assert found["mean"].centred is None


def test_nothing_is_compared_unless_it_is_asked_for(whole):
    assert whole.workspace.config.condition is None
    assert likenesses_of(whole.workspace) == ()


def _of(whole, method):
    return [cell for cell in whole.cells if cell.method == method]


def _is_first(cell):
    return (cell.control, cell.seed) == ("right", 3)
