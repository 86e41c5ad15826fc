"""Configs: every one that is shipped, and every YAML file that loragen writes, with what reads it; and overrides."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.mutations import mutated_yaml
from loragen.evaluation.config import EvaluateConfig
from loragen.exporters.card import GeneratedCard
from loragen.generators.train import read_config
from loragen.tasks.task_set import TaskSetConfig
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.card import Card, Manifest

ROOT = Path(__file__).parents[2]
Reader = Callable[..., Any]
READERS: dict[str, Reader] = {
    "configs/zoo/*.yaml": ZooConfig.from_yaml,
    "configs/train/*.yaml": read_config,
    "configs/evaluate/*.yaml": EvaluateConfig.from_yaml,
    "configs/tasks/*.yaml": TaskSetConfig.from_yaml,
    "tests/old_files/zoo/zoo.yaml": Manifest.from_yaml,
    "tests/old_files/zoo/experts/mood/card.yaml": Card.from_yaml,
    "tests/old_files/imported/experts/elsewhere/card.yaml": Card.from_yaml,
    "tests/old_files/adapter/card.yaml": GeneratedCard.from_yaml,
}
"""Files, and what reads them."""
SHIPPED = [(path.read_bytes(), read) for places, read in READERS.items() for path in sorted(ROOT.glob(places))]
NAMES = ("seed", "steps", "recipe", "folds", "number", "zoo", "out", "tasks", "splits", "labels", "table", "source")


@st.composite
def configs(draw: st.DrawFn) -> tuple[bytes, Reader]:
    """A mutated config, and what reads it."""
    content, read = draw(st.sampled_from(SHIPPED))
    return draw(mutated_yaml(content, NAMES)), read


def overrides() -> st.SearchStrategy[list[str]]:
    """Values of ``--set``."""
    keys = st.sampled_from(
        ["seed", "recipe.steps", "folds.number", "sg.top_k", "a.b.c", "", ".", "seed.x", "name", "zoo"]
    )
    values = st.sampled_from(
        [
            "1",
            "[1, 2]",
            "{a: 1}",
            "2024-02-30",
            "!!int ''",
            "0b_",
            "*a",
            "[" * 3_000,
            "9" * 5_000,
            ".nan",
            "'",
            "\x00",
            "",
        ]
    )
    good = st.sampled_from(["recipe.steps=4", "score=false", "name=other", "workers=1", "folds=null", "start=zero"])
    odd = st.builds("{}={}".format, keys, values) | st.text(max_size=8)
    return st.lists(good, min_size=1, max_size=2) | st.lists(good | odd, min_size=1, max_size=3)
