import pytest
import torch

from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.registry import open_generator
from loragen.zoo.expert_index import ExpertIndex, mean_direction, softmax_weights
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


def asked(encoder: TextEncoder, text: str = "Route a message to the right desk of a bank.") -> Condition:
    return Condition(text, encoder.encode([text])[0])


def generated(name: str, zoo: Zoo, encoder: TextEncoder, **options):
    generator = open_generator(name, zoo, encoder, **options)
    return generator.generate(asked(encoder), rng=torch.Generator().manual_seed(0))[0]


def dense(zoo: Zoo, weights: dict[str, float], site: str) -> torch.Tensor:
    return sum(weight * zoo.adapter(expert).delta_weight(site) for expert, weight in weights.items())


def test_mean_is_the_dense_mean_of_the_experts_split(tiny_zoo, encoder) -> None:
    generation = generated("mean", tiny_zoo, encoder)
    experts = [card.id for card in tiny_zoo if card.split == "experts"]
    assert {n.id for n in generation.neighbours} == set(experts)
    for site in generation.adapter.sites:
        reference = dense(tiny_zoo, dict.fromkeys(experts, 1 / len(experts)), site)
        torch.testing.assert_close(generation.adapter.delta_weight(site), reference)


def test_nearest_is_the_expert_itself(tiny_zoo, encoder) -> None:
    generation = generated("nearest", tiny_zoo, encoder)
    (neighbour,) = generation.neighbours
    similarities = {
        card.id: float(mean_direction(encoder.encode(card.descriptions)) @ asked(encoder).embedding)
        for card in tiny_zoo
        if card.split == "experts"
    }
    assert neighbour.id == max(similarities, key=similarities.__getitem__)
    assert neighbour.similarity == pytest.approx(similarities[neighbour.id], abs=1e-5)
    for site in generation.adapter.sites:
        assert torch.equal(generation.adapter.delta_weight(site), tiny_zoo.adapter(neighbour.id).delta_weight(site))


@pytest.mark.parametrize("top_k", [1, 3, 100])
def test_topk_is_the_softmax_weighted_dense_sum(tiny_zoo, encoder, top_k: int) -> None:
    generation = generated("topk", tiny_zoo, encoder, top_k=top_k)
    assert len(generation.neighbours) == min(top_k, 7)
    expected = torch.softmax(torch.tensor([n.similarity for n in generation.neighbours]).double() / 0.1, 0)
    torch.testing.assert_close(torch.tensor([n.weight for n in generation.neighbours]).double(), expected)
    weights = {n.id: n.weight for n in generation.neighbours}
    for site in generation.adapter.sites:
        torch.testing.assert_close(generation.adapter.delta_weight(site), dense(tiny_zoo, weights, site))


def test_a_low_temperature_favours_the_nearest() -> None:
    warm, cold = softmax_weights([0.9, 0.8], 1.0), softmax_weights([0.9, 0.8], 0.01)
    assert warm[0] < cold[0]
    assert sum(cold) == pytest.approx(1)


def test_validation_experts_are_never_drawn_on(tiny_zoo, encoder) -> None:
    text = tiny_zoo.card("shop").description
    generator = open_generator("topk", tiny_zoo, encoder, top_k=100)
    condition = Condition(text, encoder.encode([text])[0])
    (generation,) = generator.generate(condition, rng=torch.Generator())
    assert "shop" not in {n.id for n in generation.neighbours}


def test_embeddings_are_kept_beside_the_zoo_and_equal_fresh_ones(tiny_zoo, encoder) -> None:
    first = ExpertIndex.of(tiny_zoo, encoder)
    assert list((tiny_zoo.root / "embeddings").glob("embeddings-*.safetensors"))
    second = ExpertIndex.of(tiny_zoo, encoder)
    torch.testing.assert_close(first.index.vectors, second.index.vectors)
    torch.testing.assert_close(first.paraphrases[0], encoder.encode(tiny_zoo.card(tiny_zoo.ids[0]).descriptions))


def test_uniform_is_the_dense_mean_of_the_nearest(tiny_zoo, encoder) -> None:
    generation = generated("uniform", tiny_zoo, encoder, top_k=3)
    assert [n.weight for n in generation.neighbours] == pytest.approx([1 / 3] * 3)
    assert [n.id for n in generation.neighbours] == [
        n.id for n in generated("topk", tiny_zoo, encoder, top_k=3).neighbours
    ]
    weights = {n.id: n.weight for n in generation.neighbours}
    for site in generation.adapter.sites:
        torch.testing.assert_close(generation.adapter.delta_weight(site), dense(tiny_zoo, weights, site))
