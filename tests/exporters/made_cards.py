"""A generation over the tiny zoo, and its card."""

from loragen.adapters.combine import weighted_sum
from loragen.exporters.card import GeneratedCard, card_of
from loragen.generators.base import Generation
from loragen.zoo.expert_index import Neighbour

DESCRIPTION = 'Sort "mail": urgent, or not?\n  Answer: one word.'
NEIGHBOURS = (Neighbour("rain", 0.81234567, 0.75), Neighbour("bank", 0.5, 0.25), Neighbour("news", 0.1, 0.0))


def make_generation(zoo) -> Generation:
    adapter = weighted_sum([zoo.adapter(n.id) for n in NEIGHBOURS[:2]], [n.weight for n in NEIGHBOURS[:2]])
    return Generation(adapter, NEIGHBOURS)


def make_card(generation, zoo, **changes) -> GeneratedCard:
    values = {
        "description": DESCRIPTION,
        "generator": "topk",
        "seed": 3,
        "sample": 1,
        "encoder": "some-encoder",
        "encoder_hash": "e" * 16,
    }
    return card_of(generation, zoo, **(values | changes))
