"""Zoos: opened, checked and drawn on, or refused."""

import pytest
import torch
from hypothesis import given, settings
from models import write_tiny_encoder

from fuzz.harness import examples, outcome
from fuzz.zoos import zoos
from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import LoragenError
from loragen.generators.registry import open_generator
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def encoder(scratch):
    return TextEncoder.load(str(write_tiny_encoder(scratch / "encoder")))


def use(folder, encoder):
    """Look at everything in a zoo, and generate from it."""
    zoo = Zoo.open(folder)
    faults = {name: fault for name, fault in zoo.check() if fault is not None}
    zoo.score_titles()
    for card in zoo:
        card.to_yaml()
        for read in (zoo.variance, zoo.snapshots):
            try:
                read(card.id)
            except LoragenError:
                assert card.id in faults, f"{card.id} cannot be read, and the check does not say so"
    condition = Condition("Is it?", encoder.encode(["Is it?"])[0])
    (made,) = open_generator("topk", zoo, encoder, top_k=2).generate(condition, rng=torch.Generator())
    assert made.adapter.norm() < float("inf")


@settings(max_examples=examples("middle"))
@given(mutant=zoos())
def test_mutants_are_used_or_refused(mutant, encoder, scratch):
    folder = scratch / "zoo"
    outcome("zoos", lambda: use(mutant.write(folder), encoder), seconds=4)
