"""The text encoder and the experts on which the tests of ICM-LoRA train it."""

from pathlib import Path

import pytest
from models import write_tiny_encoder

from loragen.conditions.text_encoder import TextEncoder
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1)


@pytest.fixture(scope="module")
def encoder(model) -> TextEncoder:
    return TextEncoder.load(str(model))


@pytest.fixture(scope="module")
def zoo(tiny_zoo) -> Zoo:
    return tiny_zoo.select(splits={"experts"})
