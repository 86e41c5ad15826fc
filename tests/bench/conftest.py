"""A comparison of recipes over a tiny encoder and two tasks."""

import pytest
from models import word_task, write_tiny_encoder

from loragen.config import dump_yaml

RATES = (1e-3, 1e-2, 1e-1)


@pytest.fixture(scope="session")
def bench_inputs(tmp_path_factory):
    """Values of a config but for its folder."""
    root = tmp_path_factory.mktemp("bench")
    base = write_tiny_encoder(root / "tiny", seed=1)
    tasks = [word_task(root / "data", name, words=words) for name, words in TASKS.items()]
    (root / "tasks.yaml").write_text(dump_yaml({"tasks": [task.model_dump(mode="json") for task in tasks]}))
    return {
        "base": str(base),
        "tasks": str(root / "tasks.yaml"),
        "ids": list(TASKS),
        "common": {"r": 2, "steps": 8, "batch_size": 8, "max_length": 32, "held_out": 20, "choices": 2, "window": 3},
        "recipes": ["lora", {"name": "lora_both", "scaling": 2.0}],
        "learning_rates": list(RATES),
        "test_texts": 30,
    }


TASKS = {"drinks": ("soup", "tea"), "weather": ("cold", "warm")}
