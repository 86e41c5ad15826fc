import math
from dataclasses import replace

import pytest
from loras import QUERY, factors

from loragen.adapters.adapter import Lora
from loragen.adapters.settings import LoraSettings


@pytest.mark.parametrize(
    ("changes", "scaling"),
    [
        ({}, 8 / 4),
        ({"use_rslora": True}, 8 / math.sqrt(4)),
        ({"rank_pattern": {"query": 16}}, 8 / 16),
        ({"alpha_pattern": {"query": 2}}, 2 / 4),
        ({"alpha_pattern": {"uery": 2}}, 8 / 4),  # endings are whole names
        ({"alpha_pattern": {"self": 2}}, 8 / 4),  # and reach the end
        ({"alpha_pattern": {".*uery": 2}}, 2 / 4),
        ({"alpha_pattern": {"^query": 2}}, 8 / 4),  # an anchor holds at the beginning of the whole name
        ({"rank_pattern": {"self.query": 2, "query": 16}}, 8 / 2),  # the first match counts
        ({"rank_pattern": {"query": 16, "self.query": 2}}, 8 / 16),
    ],
    ids=str,
)
def test_scaling(changes, scaling):
    base = LoraSettings(r=4, lora_alpha=8, target_modules=("query",))
    assert replace(base, **changes).scaling(QUERY) == scaling


@pytest.mark.parametrize(
    ("targets", "covered"),
    [
        (("value", "query"), True),
        (("self.query",), True),
        ((QUERY,), True),
        (("uery",), False),
        (("self",), False),
        ((), False),
        (r".*\.query", True),
        ("query", False),  # a lone string is matched against whole names
        ("All-Linear", True),
    ],
    ids=str,
)
def test_targets(targets, covered):
    assert LoraSettings(r=4, lora_alpha=8, target_modules=targets).targets(QUERY) is covered


def test_the_order_of_patterns_survives_saving(tmp_path):
    settings = LoraSettings(
        4, 4, ("query",), rank_pattern={"self.query": 2, "query": 1}, alpha_pattern={"z": 1, "a": 2}
    )
    Lora(settings, *factors({QUERY: 2})).save(tmp_path / "adapter")
    loaded = Lora.load(tmp_path / "adapter").settings
    assert list(loaded.rank_pattern) == ["self.query", "query"]
    assert list(loaded.alpha_pattern) == ["z", "a"]
