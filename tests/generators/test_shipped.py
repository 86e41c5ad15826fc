"""Generators of the bundled zoo still generate what they did: a norm and a projection of an adapter each."""

import pytest
import torch

from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.registry import open_generator
from loragen.zoo.zoo import Zoo, default_zoo

DESCRIPTION = "Sort messages of a bank's customers by what they want."
FINGERPRINTS = {
    "sg": (13.68577, 3.17567),
    "icm": (14.69414, 2.53010),
    "ridge": (11.01876, 1.28609),
    "topk": (12.81035, 5.03242),
    "uniform": (12.83875, 5.95052),
    "nearest": (15.64216, 3.31977),
    "mean": (10.52137, 1.02638),
}
"""By generator the norm of all delta weights, and their inner product with a fixed vector of the same norm as ones."""


@pytest.fixture(scope="module")
def zoo() -> Zoo:
    return Zoo.open(default_zoo())


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder.load()


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_bundled_generators_generate_what_they_did(zoo, encoder, name: str) -> None:
    generator = open_generator(name, zoo, encoder)
    condition = Conditioner(encoder, generator.reading, generator.evidence).condition(Evidence(DESCRIPTION))
    (generation,) = generator.generate(condition, rng=torch.Generator().manual_seed(5))
    adapter = generation.adapter
    deltas = torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)]).double()
    direction = torch.arange(len(deltas)).double().cos()
    found = (float(deltas.norm()), float(deltas @ direction))
    assert found == pytest.approx(FINGERPRINTS[name], rel=1e-3)
