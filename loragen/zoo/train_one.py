"""Trains the expert of one task for a zoo that is there, as a build of the zoo with that task would have."""

from pathlib import Path

from loragen.adapters.adapter import Lora
from loragen.bases.devices import DeviceName, choose_dtype
from loragen.errors import ZooError, cut
from loragen.tasks.task_set import Task, TaskSet
from loragen.training.threads import few_threads
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_jobs import Beginnings, BuildContext, TrainExpert, WorkerContext
from loragen.zoo.card import Card
from loragen.zoo.start import START
from loragen.zoo.zoo import SPLIT, Zoo


def task_of(task_id: str, tasks: Path, split: str | None) -> tuple[Task, str]:
    """A task of a file, and the split that its expert belongs to.

    That is ``split`` where it is given, else ``experts`` where the file puts the task there or into no split, else the
    first split of the file that names it: an expert of a task that is kept for tests is none that generators draw on.

    Raises:
        TaskError: there is no such task.
        ConfigError: the file does not fit.
    """
    task_set = TaskSet.from_yaml(tasks)
    task = task_set[task_id]
    among = [name for name, ids in task_set.splits.items() if task_id in ids]
    return task, split or (SPLIT if SPLIT in among or not among else among[0])


def train_one(
    zoo: Zoo, task: Task, tasks: Path, split: str, *, score: bool = True, device: DeviceName = "cpu"
) -> tuple[Card, Lora, dict[str, str | bytes]]:
    """Train the expert of a task with the zoo's own recipe, frame, start and seed.

    Returns:
        Its card, its adapter, and the other files of its folder, the card among them.

    Args:
        zoo: the whole zoo; nothing is written.
        task: to train on.
        tasks: the file that it stands in.
        split: of the expert.
        score: score base and expert on the task's test file.
        device: to train on.

    Raises:
        ZooError: the zoo cannot train experts: its adapters come from elsewhere, or what they began at is not there.
        TaskError: the task's data cannot be used.
        ConfigError: the base is not at hand, or has other weights.
    """
    _refuse_untrainable(zoo)
    manifest, dtype = zoo.manifest, choose_dtype("auto")
    config = ZooConfig.model_validate(
        {
            **{name: getattr(manifest, name) for name in ("name", "base", "frame", "start", "recipe", "multitask")},
            **{"folds": manifest.folds, "out": zoo.root, "tasks": tasks, "score": score, "device": device},
            "workers": 1,
        }
    )
    build = BuildContext(config, manifest, dtype)
    worker = WorkerContext(build, zoo.load_base(dtype=dtype, device=device), Beginnings.read(build))
    with few_threads(worker.base.number_of_parameters):
        return TrainExpert(task, split).made(worker)


def _refuse_untrainable(zoo: Zoo) -> None:
    manifest, place = zoo.manifest, cut(zoo.root)
    if manifest.start == "elsewhere" or manifest.frame == "fitted":
        raise ZooError(
            f"The experts of {place} were trained elsewhere, so it has no recipe to train one more with; train an "
            "adapter with PEFT, and add its folder."
        )
    if not (zoo.root / START).is_file():
        raise ZooError(
            f"{place} has no {START}, at which its experts begin; copy it from the zoo that this one was packed from."
        )
    if manifest.start == "folds" and manifest.folds is None:
        raise ZooError(
            f"The experts of {place} begin at the folds of another zoo; add the task to the task file of its config, "
            "and run `loragen zoo build` again."
        )
    if manifest.start == "folds" and (missing := zoo.missing_folds()):
        raise ZooError(f"{place} lacks {', '.join(missing)}, at which its experts begin; restore them, or build again.")
