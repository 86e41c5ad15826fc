"""The base and the task on which the tests of recipes train."""

import pytest
from models import word_task, write_tiny_encoder

from loragen.bases.text_encoder import LabelTextEncoder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return LabelTextEncoder.load(str(write_tiny_encoder(tmp_path_factory.mktemp("models") / "tiny", seed=1)))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return word_task(tmp_path_factory.mktemp("tasks"))
