"""A tiny base, tasks and the zoo built of them: fixtures for test modules that name this in `pytest_plugins`."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from builds import POOL, TASKS, InThisProcess, Step, changed, recorded
from models import word_task, write_tiny_encoder

from loragen.config import dump_yaml
from loragen.recipes.expert import ExpertRecipe
from loragen.recipes.multitask import MultitaskRecipe
from loragen.zoo import executors
from loragen.zoo.build import build_zoo
from loragen.zoo.build_config import ZooConfig


@pytest.fixture(scope="session")
def word_tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base and a task file: two tasks for experts, one for validation; these and one more for folds."""
    root = tmp_path_factory.mktemp("word_tasks")
    write_tiny_encoder(root / "base", seed=1)
    tasks = [
        word_task(root / "data", name, words=words, train=60).model_copy(update={"family": family})
        for (name, words), family in zip(
            {**TASKS, "stove": ("tea", "warm")}.items(), ("table", "table", "sky", ""), strict=True
        )
    ]
    splits = {"experts": ["drinks", "meals"], "validation": ["weather"], "pool": list(POOL)}
    (root / "tasks.yaml").write_text(dump_yaml({"tasks": [t.model_dump(mode="json") for t in tasks], "splits": splits}))
    return root


@pytest.fixture(scope="session")
def zoo_config(word_tasks: Path) -> ZooConfig:
    return ZooConfig(
        name="tiny",
        out=word_tasks / "zoo",
        base=str(word_tasks / "base"),
        tasks=word_tasks / "tasks.yaml",
        splits=("experts", "validation"),
        frame="random",
        start="zero",
        recipe=ExpertRecipe(r=2, steps=12, batch_size=8, learning_rate=3e-2, choices=2, window=4, snapshots=3),
        multitask=MultitaskRecipe(steps=4, steps_per_checkpoint=2, learning_rate=3e-2),
        score=False,
        dtype="float32",
        workers=2,
    )


@pytest.fixture(scope="session")
def built(zoo_config: ZooConfig) -> list[Step]:
    """The zoo of `zoo_config`, built once by worker processes; its progress meanwhile."""
    steps: list[Step] = []
    build_zoo(zoo_config, progress=recorded(steps))
    return steps


@pytest.fixture
def built_copy(built, zoo_config, tmp_path, in_this_process) -> ZooConfig:
    """A config for a copy of the built zoo to build on, with workers in this process."""
    shutil.copytree(zoo_config.out, tmp_path / "zoo")
    return zoo_config.model_copy(update={"out": tmp_path / "zoo"})


@pytest.fixture
def fresh(zoo_config, tmp_path, in_this_process) -> ZooConfig:
    """A config for a zoo that is not there yet, with workers in this process."""
    return zoo_config.model_copy(update={"out": tmp_path / "fresh"})


@pytest.fixture
def folding(built_copy: ZooConfig) -> ZooConfig:
    """A config that adds three folds to the built zoo."""
    recipe = {"number": 3, "steps": 6, "steps_per_checkpoint": 2, "learning_rate": 3e-2}
    return changed(built_copy, pooled="pool", folds=recipe)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pools of processes run in this one."""
    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(executors, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(executors, "_worker", None)
    yield
    signal.signal(signal.SIGINT, handler)
    torch.set_num_threads(threads)
