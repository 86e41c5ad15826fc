"""The toy zoo of the tests of the hypernetwork, and what is read from it once a test file."""

import pytest
from hyper_toys import KINDS, changed, config_of, with_multitask

from loragen.bases.base import Base
from loragen.conditions.text_encoder import TextEncoder
from loragen.generators.hyper.data import HyperData, read_experts
from loragen.generators.hyper.fit import HyperTrainConfig
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import Zoo


@pytest.fixture(scope="module")
def zoo(toys, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return with_multitask(Zoo.open(toys / "zoo"), tmp_path_factory.mktemp("hyper") / "zoo")


@pytest.fixture(scope="module")
def encoder(toys) -> TextEncoder:
    return TextEncoder.load(str(toys / "base"))


@pytest.fixture(scope="module")
def base(zoo) -> Base:
    return zoo.load_base()


@pytest.fixture(scope="module")
def config(toys, zoo) -> HyperTrainConfig:
    return changed(config_of(toys), zoo=zoo.root)


@pytest.fixture(scope="module")
def data(config, zoo, base) -> HyperData:
    return read_experts(config, zoo, base, KINDS)


@pytest.fixture(scope="module")
def tasks(toys) -> TaskSet:
    return TaskSet.from_yaml(toys / "tasks.yaml")
