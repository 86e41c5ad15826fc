"""Small hypernetworks over the toys' zoo, and what is asked of them."""

import shutil
from pathlib import Path

import torch
from torch import Tensor
from toys import TESTS

from loragen.adapters.adapter import Lora
from loragen.adapters.frame import Frame
from loragen.conditions.condition import Condition
from loragen.config import dump_yaml
from loragen.files import atomic_write
from loragen.generators.hyper.data import EpisodeTask, HyperData
from loragen.generators.hyper.fit import HyperTrainConfig, WeightsBatch
from loragen.generators.hyper.model import Hyper, HyperConfig, HyperNetwork
from loragen.generators.hyper.task_loss import TaskBatch
from loragen.tasks.task_set import TaskSet
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.folds import FOLDS, Fold, FoldPlan, write_fold
from loragen.zoo.zoo import Zoo

KINDS = HyperConfig().evidence
FAR = {"cups": 0, "drinks": 0, "meals": 0, "mugs": 1, "suppers": 1, "weather": 2, "words": 2}
NEAR = {"cups": 1, "drinks": 2}
"""Folds of `with_folds` by number; one family alone has a task more to be near to."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config_of(toys: Path) -> HyperTrainConfig:
    return HyperTrainConfig(
        generator="hyper",
        zoo=toys / "zoo",
        encoder=str(toys / "base"),
        tasks=toys / "tasks.yaml",
        out=toys / "out",
        hyper=HyperConfig(basis_size=7, hidden_size=32),
        judged_on=None,
        judged_texts=TESTS,
        weights_steps=20,
        pool=30,
        shots=(1, 4, 100),
        epochs=3,
        steps_per_epoch=10,
        batch_size=16,
        learning_rate=0.01,
        dtype="float32",
    )


def changed(config: HyperTrainConfig, **values: object) -> HyperTrainConfig:
    return HyperTrainConfig.model_validate(config.model_dump() | values)


def with_more(config: HyperTrainConfig, toys: Path, folder: Path, **names: str) -> HyperTrainConfig:
    """A config whose training reads further tasks: copies, by new name, of tasks of the toys."""
    tasks = TaskSet.from_yaml(toys / "tasks.yaml")
    copies = [tasks[name].model_copy(update={"id": new}).model_dump(mode="json") for new, name in names.items()]
    path = folder / "more.yaml"
    path.write_text(dump_yaml({"tasks": copies}))
    return changed(config, more_tasks=path)


def with_multitask(zoo: Zoo, folder: Path) -> Zoo:
    """A copy of the zoo with an adapter for all tasks: somewhat less than the mean of the experts."""
    other = Zoo.open(shutil.copytree(zoo.root, folder))
    adapters = [zoo.adapter(expert) for expert in zoo.ids]
    frame = Frame.fit(adapters)
    mean = torch.stack([frame.coordinates(adapter) for adapter in adapters]).mean(0)
    adapter = frame.adapter(0.7 * mean, base=zoo.manifest.base, task_type="FEATURE_EXTRACTION")
    adapter.save(other.root / MULTITASK_FOLDER)
    return other


def with_folds(zoo: Zoo, folder: Path) -> Zoo:
    """A copy of the zoo with an adapter for all tasks and three folds of it, all of random values."""
    other = Zoo.open(shutil.copytree(zoo.root, folder))
    frame, rng = Frame.fit([zoo.adapter(expert) for expert in zoo.ids]), seeded(11)

    def drawn() -> Lora:
        coordinates = 0.3 * torch.randn(frame.size, generator=rng)
        return frame.adapter(coordinates, base=zoo.manifest.base, task_type="FEATURE_EXTRACTION")

    drawn().save(other.root / MULTITASK_FOLDER)
    for fold in range(3):
        far, near = (tuple(task for task, at in plan.items() if at == fold) for plan in (FAR, NEAR))
        write_fold(other.root / FOLDS / str(fold), Fold(FoldPlan(far=far, near=near), drawn()))
    return other


def network_of(data: HyperData, **values: object) -> HyperNetwork:
    """An untrained network for the zoo's experts."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = tuple(data.frame.sizes.values())
        net = HyperNetwork(data.keys.shape[-1], sizes, HyperConfig(**{"basis_size": 7, "hidden_size": 32} | values))
    net.begin(data.offsets, data.start)
    return net.eval()


def moved(net: HyperNetwork, scale: float = 0.3) -> HyperNetwork:
    """With other values than those it begins with, as after a training."""
    rng = seeded(7)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=rng))
    return net


def everyone(data: HyperData) -> WeightsBatch:
    """All experts, each with all that is known of its task."""
    n = len(data.keys)
    return WeightsBatch(data.keys, torch.ones(n, 4, dtype=torch.bool), torch.arange(n))


def source_of(batch: TaskBatch, data: HyperData) -> tuple[int, EpisodeTask]:
    """The expert and the task or variant that a batch's labels and texts are of."""
    return next(
        (expert, task)
        for expert, variants in enumerate(data.tasks)
        for task in variants
        if task.data.label_ids == batch.data.label_ids and all(ids in task.data.ids for ids in batch.data.ids)
    )


def states(generator: Hyper) -> dict[str, Tensor]:
    return generator.network.state_dict()


def assert_near(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=1e-5, rtol=1e-5)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


def generated(generator: Hyper, condition: Condition) -> Lora:
    (generation,) = generator.generate(condition, rng=seeded())
    return generation.adapter


def deltas(adapter: Lora) -> Tensor:
    return torch.cat([adapter.delta_weight(site).flatten() for site in sorted(adapter.sites)])


def saved(generator: Hyper, folder: Path) -> Path:
    for name, content in generator.files().items():
        atomic_write(folder / name, content)
    return folder
