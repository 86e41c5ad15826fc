"""Trained generators: opened and used, or refused."""

import pytest
import torch
from hypothesis import given, settings

from fuzz.files import Mutant
from fuzz.generators import generators
from fuzz.harness import examples, outcome
from fuzz.zoos import ZOO, stand_in_encoder
from loragen.conditions.condition import Condition
from loragen.generators.registry import open_generator
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(scratch):
    Mutant(ZOO).write(scratch / "whole")
    return Zoo.open(scratch / "whole")


@settings(max_examples=examples("middle"))
@given(mutant=generators())
def test_mutants_are_used_or_refused(mutant, zoo, scratch):
    def use():
        encoder = stand_in_encoder()
        generator = open_generator(str(mutant.write(scratch / "generator")), zoo, encoder)
        condition = Condition("Is it?", encoder.encode(["Is it?"])[0])
        (made,) = generator.generate(condition, rng=torch.Generator().manual_seed(0))
        assert made.adapter.norm() < float("inf")

    outcome("generators", use)
