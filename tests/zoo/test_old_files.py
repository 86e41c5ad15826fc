"""Everything that an older version wrote is read: zoo, generator, generated adapter, imported zoo."""

import shutil
from pathlib import Path

import pytest
import torch

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.registry import open_generator
from loragen.zoo.zoo import Zoo

FILES = Path(__file__).parents[1] / "old_files"


@pytest.fixture
def old(tmp_path) -> Path:
    """A copy, beside which embeddings can be kept."""
    return Path(shutil.copytree(FILES, tmp_path / "old"))


def test_an_older_zoo_is_whole(old):
    zoo = Zoo.open(old / "zoo")
    assert dict(zoo.check()) == dict.fromkeys(("bank", "card", "cook", "mood", "news", "rain", "rude", "shop"))
    assert all(card.has_trajectory and card.provenance.steps == 10 for card in zoo)
    assert zoo.select(splits={"validation"}).ids == ("shop",)


def test_an_older_imported_zoo_is_whole(old):
    zoo = Zoo.open(old / "imported")
    assert dict(zoo.check()) == {"elsewhere": None}
    assert zoo.card("elsewhere").provenance.energy_kept == 0.999999
    assert all(not v.any() for v in zoo.variance("elsewhere").values()), "nothing is known of its training"


def test_an_older_generator_makes_the_adapter_that_it_made_then(old):
    zoo, encoder = Zoo.open(old / "zoo"), TextEncoder.load("all-MiniLM-L6-v2")
    generator = open_generator("sg", zoo, encoder)
    conditioner = Conditioner(encoder, generator.reading, generator.evidence)
    condition = conditioner.condition(Evidence("Is this customer of the bank angry?"))
    (made,) = generator.generate(condition, rng=torch.Generator().manual_seed(3))
    then = Lora.load(old / "adapter")
    assert then.norm() > 0
    assert made.adapter.spec == then.spec
    for site in then.sites:
        torch.testing.assert_close(made.adapter.delta_weight(site), then.delta_weight(site), rtol=0, atol=1e-3)
