"""Trains generators through the frozen base; left-out tasks choose the epoch at which one is kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from loragen.adapters.frame import Frame
from loragen.adapters.tensor_file import read_tensors
from loragen.bases.base import Base
from loragen.bases.devices import choose_dtype
from loragen.bases.scores import Scores, main_score
from loragen.bases.tokenised import TaskData
from loragen.conditions.task_vectors import EvidenceKind
from loragen.errors import ConfigError
from loragen.files import atomic_write
from loragen.generators.hyper.config import TaskTrainConfig
from loragen.generators.hyper.data import HyperData, read_experts
from loragen.generators.hyper.task_loss import TaskBatch, TaskObjective
from loragen.generators.trained import kept_values
from loragen.tasks.task_set import Task, TaskSet
from loragen.training.devices import ONE_DEVICE, Devices
from loragen.training.objective import Batch, Objective
from loragen.training.ranks import this_rank
from loragen.training.schedule import Schedule
from loragen.zoo.zoo import Zoo


@dataclass(frozen=True, eq=False)
class OpenedZoo:
    """A zoo opened for training through its base."""

    data: HyperData
    base: Base
    judge: "Judge | None"
    """None where the training is to go to its end."""

    @classmethod
    def open(
        cls, config: TaskTrainConfig, zoo: Zoo, evidence: tuple[EvidenceKind, ...], *, frame: Frame | None = None
    ) -> "OpenedZoo":
        """Load the base, read the zoo and its tasks, and the left-out tasks; ``frame`` in place of one that fits.

        Raises:
            ConfigError: the base has other weights here than the zoo was trained on, all experts are of one family, or
                the tasks to judge on will not do.
            ZooError: the zoo has no expert, or its folds leave one out of account.
            TaskError: a task or its examples are missing.
        """
        base, judged = zoo.load_base(), _left_out(config, zoo, evidence)
        data = read_experts(config, zoo, base, evidence, frame=frame)
        judge = Judge.of(judged, config, data, base) if judged else None
        # Task vectors were read as those of a new task will be; from here on speed is what matters.
        base.model.to(choose_dtype(config.dtype))
        base = base.keeping_below(data.frame.lora_A)
        return cls(data, base, replace(judge, base=base) if judge else None)


@dataclass(frozen=True)
class Fitted:
    """Result of a training, beside the network."""

    epochs: int
    """After which the network is as it was kept."""
    worth: tuple[float, ...]
    """Before training and after each epoch; empty without a judge."""
    history: list[dict[str, float]]
    """Losses, a row a step."""


def fit_through_base(
    config: TaskTrainConfig,
    opened: OpenedZoo,
    network: nn.Module,
    draw: Callable[[torch.Generator], Sequence[TaskBatch]],
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Fitted:
    """Train a network from a `TaskBatch` to coordinates (d,), on the loss of the batch's texts; see `fit_judged`.

    Args:
        config: length and optimiser settings.
        opened: the base, the frame and the judge.
        network: trained in place.
        draw: the batches of an epoch, ``steps_per_epoch`` of them.
        checkpoints: where the state is kept; an interrupted run goes on from there.
        on_step: called with the number of steps done.
    """
    frame = opened.data.frame
    objective = TaskObjective(opened.base, network, frame, contrast_weight=config.contrast_weight)
    schedule = config.schedule
    return fit_judged(
        objective,
        network,
        draw,
        schedule,
        opened.judge,
        seed=config.seed,
        checkpoints=checkpoints,
        on_step=on_step,
        devices=config.hardware,
    )


def fit_judged(
    objective: Objective,
    network: nn.Module,
    draw: Callable[[torch.Generator], Sequence[Batch]],
    schedule: Schedule,
    judge: "Judge | None",
    *,
    seed: int,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
    devices: Devices = ONE_DEVICE,
) -> Fitted:
    """Train a network in place; where there is a judge, leave it as it was when it was worth most.

    It is judged before training and after every epoch: what it was before stays if nothing betters it. Of several
    processes rank 0 alone judges, and has the network that was worth most.
    """
    from loragen.training.lightning_fit import fit

    if this_rank().is_first:
        candidates = Candidates(checkpoints)
    else:
        candidates, judge = Candidates(None), None

    def batches(epoch: int) -> Sequence[Batch]:
        return draw(torch.Generator().manual_seed(seed * 1_000_003 + epoch))

    def keep(epoch: int) -> None:
        if judge is not None:
            candidates.add(epoch, judge.worth(network), network.state_dict())

    keep(0)
    history = fit(
        objective,
        batches,
        schedule,
        seed=seed,
        checkpoints=checkpoints,
        on_step=on_step,
        on_epoch=keep,
        devices=devices,
    )
    if judge is None:
        return Fitted(schedule.epochs, (), history)
    epochs, state = candidates.best()
    network.load_state_dict(state)
    return Fitted(epochs, tuple(round(candidates.worth[epoch], 4) for epoch in sorted(candidates.worth)), history)


@dataclass(frozen=True, eq=False)
class Judge:
    """Left-out tasks, each with the evidence of the task itself and that of a control."""

    base: Base
    frame: Frame
    tasks: tuple[tuple[TaskData, TaskBatch, TaskBatch], ...]

    @classmethod
    def of(cls, tasks: Sequence[Task], config: TaskTrainConfig, data: HyperData, base: Base) -> "Judge":
        """Read the left-out tasks' descriptions; the control is the description of the next task in the list.

        Raises:
            TaskError: a task's examples are missing.
        """
        present = torch.tensor([kind == "description" for kind in data.evidence])
        found = []
        for task in tasks:
            examples = task.load_test()
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(config.seed))
            first = examples.subset(order[: config.judged_texts])
            told = None if config.told is None else task.description
            texts = base.prepare(first, max_length=config.max_length, instruction=told)
            found.append(TaskBatch(texts, data.query(task.description), present, data.start))
        others = [*found[1:], *found[:1]]
        judged = [(one.data, one, other) for one, other in zip(found, others, strict=True)]
        return cls(base, data.frame, tuple(judged))

    @torch.no_grad()
    def worth(self, network: nn.Module) -> float:
        """Mean score, plus the part of it that is lost under another task's description; a score is that of both kinds.

        The second part alone would prefer a generator that does harm under any other description. The network is
        judged as it generates, out of its training mode.
        """
        device, is_training = next(network.parameters()).device, network.training
        network.eval()
        found = []
        for texts, *batches in self.tasks:
            right, other = (self._score(network(batch.to(device)).cpu(), texts) for batch in batches)
            found.append(right + (right - other))
        network.train(is_training)
        return sum(found) / len(found)

    def _score(self, coordinates: Tensor, data: TaskData) -> float:
        adapter = self.frame.adapter(coordinates, base=None)
        if self.base.writes_text:  # the one figure that tasks with labels and without have in common
            with self.base.adapted(adapter):
                return -self.base.held_out_loss(data, contrast_weight=0)
        scores = self.base.score(data, adapter)
        return (scores.accuracy + scores.knn_accuracy) / 2 if isinstance(scores, Scores) else main_score(scores)


def _left_out(config: TaskTrainConfig, zoo: Zoo, evidence: Sequence[EvidenceKind]) -> tuple[Task, ...]:
    """The tasks to judge on; none where the config wants it so.

    Raises:
        ConfigError: there are fewer than two, experts were trained on some, or descriptions are not read.
        TaskError: there is no such split.
    """
    if config.judged_on is None:
        return ()
    tasks = TaskSet.from_yaml(config.tasks, root=config.tasks_root).split(config.judged_on)
    way_out = "name another split with 'judged_on', or null to train to the end."
    if len(tasks) < 2:
        raise ConfigError(
            f"The split {config.judged_on!r} holds {len(tasks)} tasks to judge on; at least two were wanted, for the "
            f"description of another is the control; {way_out}"
        )
    if known := [task.id for task in tasks if task.id in zoo.cards]:
        raise ConfigError(
            f"The split {config.judged_on!r} is to be judged on, but experts of {zoo.root} were trained on "
            f"{', '.join(known)}; {way_out}"
        )
    if "description" not in evidence:
        raise ConfigError(
            f"Left-out tasks are judged from their descriptions, but the evidence is {', '.join(evidence)}; add the "
            "description to it, or set 'judged_on: null'."
        )
    return tasks


class Candidates:
    """The network after every epoch and what it was worth, on disk where the run can be resumed."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._states: dict[int, bytes] = {}
        self._worth = folder / "worth.json" if folder is not None else None
        self.worth = {int(epoch): float(value) for epoch, value in kept_values(self._worth).items()}

    def add(self, epoch: int, worth: float, state: Mapping[str, Tensor]) -> None:
        """Keep a candidate."""
        content = save({name: value.detach().cpu().contiguous() for name, value in state.items()})
        self.worth[epoch] = worth
        if self._folder is None or self._worth is None:
            self._states[epoch] = content
            return
        atomic_write(self._folder / f"epoch-{epoch}.safetensors", content)
        atomic_write(self._worth, json.dumps(self.worth))

    def best(self) -> tuple[int, dict[str, Tensor]]:
        """The epoch that was worth most, the first of equals, and the network's state after it."""
        epoch = max(sorted(self.worth), key=lambda at: self.worth[at])
        if self._folder is None:
            return epoch, load(self._states[epoch])
        tensors, _ = read_tensors(self._folder / f"epoch-{epoch}.safetensors")
        return epoch, tensors
