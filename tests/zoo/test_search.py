"""Experts found by their descriptions."""

import pytest
from models import write_tiny_encoder

from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import TaskError, ZooError
from loragen.zoo.expert_index import search


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return TextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny", seed=1)))


def test_an_experts_own_description_finds_it(tiny_zoo, encoder):
    for card in tiny_zoo.select(splits={"experts"}):
        (found, similarity), *others = search(card.description, tiny_zoo, encoder=encoder)
        assert found == card
        assert len(others) == 6
        assert all(similarity >= other for _, other in others)


def test_experts_that_generators_do_not_draw_on_are_found_where_asked_for(tiny_zoo, encoder):
    shop = tiny_zoo.card("shop")
    assert shop not in [card for card, _ in search(shop.description, tiny_zoo.root, encoder=encoder)]
    ((card, _),) = search(shop.description, tiny_zoo.root, encoder=encoder, all_splits=True, top_k=1)
    assert card == shop


def test_a_search_can_be_kept_to_licences(tiny_zoo, encoder):
    found = search("Is it raining?", tiny_zoo, encoder=encoder, licences=["mit"])
    assert sorted(card.id for card, _ in found) == ["card", "mood", "rain"]
    with pytest.raises(ZooError, match="GPL"):
        search("Is it raining?", tiny_zoo, encoder=encoder, licences=["GPL"])


def test_an_empty_description_is_refused(tiny_zoo, encoder):
    with pytest.raises(TaskError, match="description is empty"):
        search("  ", tiny_zoo, encoder=encoder)
