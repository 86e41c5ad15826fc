from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.kernel_ridge import KernelRidge

from loragen.adapters.frame import Frame
from loragen.conditions.condition import Condition
from loragen.conditions.index import Index
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import GeneratorError
from loragen.generators.registry import open_generator
from loragen.generators.ridge import ALPHAS, BANDWIDTHS, Ridge, leave_one_out_error
from loragen.zoo.expert_index import ExpertIndex


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.fixture(scope="module")
def library(tiny_zoo, encoder):
    return ExpertIndex.of(tiny_zoo.select(splits={"experts"}), encoder)


def condition(encoder, text="Route a message to the right desk of a bank."):
    return Condition(text, encoder.encode([text])[0])


def generated(ridge, asked):
    return ridge.generate(asked, rng=torch.Generator())[0]


def kernel_of(vectors, queries, bandwidth):
    return torch.exp((vectors.double() @ queries.double().T - 1) / bandwidth)


def experts(library):
    """The experts' frame and coordinates (n, d)."""
    adapters = [library.zoo.adapter(expert) for expert in library.zoo.ids]
    frame = Frame.fit(adapters)
    return frame, torch.stack([frame.coordinates(adapter) for adapter in adapters]).double()


def predicted_by_sklearn(vectors, targets, query, alpha, bandwidth):
    """Kernel ridge regression on centred targets, (d,)."""
    centre = targets.mean(0)
    model = KernelRidge(alpha=alpha, kernel="precomputed")
    model.fit(kernel_of(vectors, vectors, bandwidth).numpy(), (targets - centre).numpy())
    return centre + torch.from_numpy(model.predict(kernel_of(query[None], vectors, bandwidth).numpy()))[0]


@pytest.mark.parametrize(("alpha", "bandwidth"), [(0.01, 0.1), (0.3, 0.5), (3.0, 0.2), (30.0, 2.0)])
def test_it_is_kernel_ridge_regression_on_centred_coordinates(library, encoder, alpha, bandwidth):
    asked = condition(encoder)
    frame, targets = experts(library)
    wanted = predicted_by_sklearn(library.index.vectors, targets, asked.embedding, alpha, bandwidth)
    generation = generated(Ridge(library, alpha, bandwidth), asked)
    torch.testing.assert_close(frame.coordinates(generation.adapter).double(), wanted, rtol=1e-5, atol=1e-5)


def test_the_mean_of_paraphrases_stands_for_an_expert(library, encoder):
    ridge, text = Ridge(library, 1e-6, 0.1), library.zoo.card("rain").descriptions
    mean = F.normalize(encoder.encode(text).mean(0), dim=0)
    weights = dict(zip(library.zoo.ids, ridge.weights(mean).tolist(), strict=True))
    assert weights["rain"] == pytest.approx(1, abs=1e-4)
    assert dict(zip(library.zoo.ids, ridge.weights(encoder.encode(text)[0]).tolist(), strict=True))["rain"] < 0.999


@given(seed=st.integers(0, 1000), alpha=st.floats(1e-3, 100), bandwidth=st.floats(0.02, 10))
def test_weights_sum_to_one(library, seed, alpha, bandwidth):
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(7, 5, generator=rng)
    near = replace(library, index=Index.build(library.zoo.ids, vectors))
    weights = Ridge(near, alpha, bandwidth).weights(torch.randn(5, generator=rng))
    assert float(weights.sum()) == pytest.approx(1, abs=1e-9)


@pytest.fixture
def rather_card_than_mood(library):
    vectors = dict(zip(library.zoo.ids, library.index.vectors, strict=True))
    return Condition("", vectors["card"] - vectors["mood"])


def test_a_generation_names_every_expert_by_size_of_its_weight(library, rather_card_than_mood):
    asked, ridge = rather_card_than_mood, Ridge(library, 0.01, 1.0)
    neighbours = generated(ridge, asked).neighbours
    assert {n.id for n in neighbours} == set(library.zoo.ids)
    assert {n.id: n.weight for n in neighbours} == dict(
        zip(library.zoo.ids, ridge.weights(asked.embedding).tolist(), strict=True)
    )
    sizes = [abs(n.weight) for n in neighbours]
    assert sizes == sorted(sizes, reverse=True)
    assert sum(n.weight for n in neighbours) == pytest.approx(1)
    similarities = {hit.id: hit.similarity for hit in library.index.search(asked.embedding, 7)}
    assert {n.id: n.similarity for n in neighbours} == similarities


def test_negative_weights_subtract_experts(library, rather_card_than_mood):
    generation = generated(Ridge(library, 0.01, 1.0), rather_card_than_mood)
    assert min(n.weight for n in generation.neighbours) < -0.01
    for site in generation.adapter.sites:
        dense = sum(n.weight * library.zoo.adapter(n.id).delta_weight(site) for n in generation.neighbours)
        torch.testing.assert_close(generation.adapter.delta_weight(site), dense)


def test_far_from_every_expert_it_is_their_mean(library):
    opposite = -F.normalize(library.index.vectors.mean(0), dim=0)
    torch.testing.assert_close(Ridge(library, 0.1, 0.05).weights(opposite), torch.full((7,), 1 / 7).double())


def test_embeddings_of_any_length_are_taken(library, encoder):
    ridge, embedding = Ridge(library), condition(encoder).embedding
    torch.testing.assert_close(ridge.weights(3 * embedding), ridge.weights(embedding))


# --- the choice of alpha and bandwidth ---


def error_by_refits(vectors, targets, alpha, bandwidth):
    squares = []
    for left_out in range(len(vectors)):
        others = [i for i in range(len(vectors)) if i != left_out]
        found = predicted_by_sklearn(vectors[others], targets[others], vectors[left_out], alpha, bandwidth)
        squares.append(float((found - targets[left_out]).square().sum()))
    return sum(squares) / len(squares)


def error_in_closed_form(vectors, targets, alpha, bandwidth):
    centred = targets - targets.mean(0)
    return leave_one_out_error(kernel_of(vectors, vectors, bandwidth), centred @ centred.T, alpha)


@pytest.mark.parametrize("n", [2, 3, 8])
@pytest.mark.parametrize(("alpha", "bandwidth"), [(0.01, 0.1), (1.0, 0.5), (30.0, 2.0)])
def test_the_closed_form_is_the_error_of_leaving_one_out(n, alpha, bandwidth):
    rng = torch.Generator().manual_seed(n)
    vectors = F.normalize(torch.randn(n, 4, generator=rng).double(), dim=1)
    targets = 5 + torch.randn(n, 6, generator=rng).double()
    wanted = error_by_refits(vectors, targets, alpha, bandwidth)
    assert error_in_closed_form(vectors, targets, alpha, bandwidth) == pytest.approx(wanted, rel=1e-8)


def test_fit_takes_the_grid_point_of_least_error(library):
    _, targets = experts(library)
    errors = {point: error_by_refits(library.index.vectors, targets, *point) for point in product(ALPHAS, BANDWIDTHS)}
    ridge = Ridge.fit(library)
    assert errors[ridge.alpha, ridge.bandwidth] == pytest.approx(min(errors.values()), rel=1e-9)
    assert max(errors.values()) > 1.05 * min(errors.values()), "the grid leaves a choice"


class Placed:
    """A zoo whose adapters sit at given coordinates."""

    def __init__(self, zoo, coordinates):
        self.ids, self.manifest = zoo.ids, zoo.manifest
        frame = Frame.fit([zoo.adapter(expert) for expert in zoo.ids])
        self.adapters = {e: frame.adapter(c, base="tiny") for e, c in zip(zoo.ids, coordinates, strict=True)}

    def adapter(self, expert):
        return self.adapters[expert]


def test_fit_trusts_descriptions_where_they_tell_adapters_and_not_elsewhere(library):
    """Adapters that follow their embeddings want a small penalty, unrelated ones the largest."""
    rng = torch.Generator().manual_seed(0)
    size = experts(library)[0].size
    angles = torch.linspace(0, 2, 7)
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    told, noise = vectors @ torch.randn(2, size, generator=rng), torch.randn(7, size, generator=rng)
    index = Index.build(library.zoo.ids, vectors)
    following = Ridge.fit(replace(library, zoo=Placed(library.zoo, told), index=index))
    assert following.alpha <= 0.03
    assert following.bandwidth >= 0.5
    unrelated = Ridge.fit(replace(library, zoo=Placed(library.zoo, noise), index=index))
    assert unrelated.alpha == max(ALPHAS)


def test_one_expert_is_taken_as_it_is(tiny_zoo, encoder):
    library = ExpertIndex.of(tiny_zoo.select(without=set(tiny_zoo.ids) - {"rain"}), encoder)
    (neighbour,) = generated(Ridge.fit(library), condition(encoder)).neighbours
    assert (neighbour.id, neighbour.weight) == ("rain", 1.0)


# --- opened by name ---


def test_the_registry_fits_it_to_the_experts_that_may_be_used(tiny_zoo, library, encoder):
    asked = condition(encoder)
    opened = open_generator("ridge", tiny_zoo, encoder)
    assert not opened.is_stochastic
    assert generated(opened, asked).neighbours == generated(Ridge.fit(library), asked).neighbours
    free = open_generator("ridge", tiny_zoo, encoder, licences=["mit"])
    assert {tiny_zoo.card(n.id).licence for n in generated(free, asked).neighbours} == {"MIT"}
    with pytest.raises(GeneratorError, match="does not apply to 'ridge'"):
        open_generator("ridge", tiny_zoo, encoder, top_k=3)


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"bandwidth": -1.0}, {"alpha": float("nan")}])
def test_numbers_above_zero_are_wanted(library, options):
    (name,) = options
    with pytest.raises(GeneratorError, match=f"{name} is .* a number above zero was wanted"):
        Ridge(library, **options)
