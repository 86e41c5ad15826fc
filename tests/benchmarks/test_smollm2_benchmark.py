"""The benchmark over SmolLM2 asks only for adapters that its steps make."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from smollm2 import HELD_OUT, KNOWN, ROWS_OF
from smollm2_cells import ORACLE, ROWS

from loragen.zoo.build_config import ZooConfig

CONFIGS = Path(__file__).parents[2] / "configs" / "zoo"


def test_oracles_are_wanted_of_the_splits_that_they_are_trained_on() -> None:
    trained = ZooConfig.from_yaml(CONFIGS / "smollm2-oracles.yaml").splits
    assert {split for split in HELD_OUT if ORACLE in ROWS_OF.get(split, ROWS)} == set(trained)
    assert ORACLE in ROWS_OF[KNOWN]  # an expert of the zoo is its own task's oracle
