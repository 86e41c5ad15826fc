"""A zoo with a generator of each kind that has forgotten an expert, and what it was before."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "generators" / "hyper"))

from forget_toys import FORGOTTEN, SETTINGS, Case, given, write_zoo

import loragen
from loragen.conditions.text_encoder import TextEncoder


@pytest.fixture(scope="session", params=FORGOTTEN)
def case(request, tiny_zoo, toys, tmp_path_factory: pytest.TempPathFactory) -> Case:
    kind = request.param
    zoo, name = write_zoo(kind, tiny_zoo, toys, tmp_path_factory.mktemp(f"forget-{kind}"))
    encoder, expert = TextEncoder.load(name), FORGOTTEN[kind]
    before = given(kind, zoo, encoder, expert)
    found = loragen.forget(expert, zoo, gold=True, keep_expert=True, encoder=name, settings=SETTINGS[kind])
    return Case(kind, zoo, encoder, expert, before, found)
