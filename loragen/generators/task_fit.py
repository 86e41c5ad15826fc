"""Trains generators through the frozen base; left-out tasks choose the epoch at which one is kept."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn

from loragen.backbone import Backbone, choose_dtype
from loragen.embedding import TextEncoder
from loragen.errors import ConfigError
from loragen.evaluation.open_scoring import main_score, measure
from loragen.evaluation.scoring import Scores
from loragen.files import atomic_write
from loragen.frame import Frame
from loragen.generators.conditions import ConditionCodec
from loragen.generators.task_episodes import Material, TaskTrainConfig, prepare
from loragen.generators.task_loss import TaskBatch, TaskObjective
from loragen.objective import Batch, Objective
from loragen.schedule import Schedule
from loragen.task_vectors import Evidence, Reading
from loragen.taskdata import TaskData
from loragen.tasks import Task, TaskSet
from loragen.zoo import Zoo


@dataclass(frozen=True, eq=False)
class Ground:
    """A zoo opened for training through its base."""

    material: Material
    backbone: Backbone
    judge: "Judge | None"
    """None where the training is to go to its end."""

    @classmethod
    def open(
        cls,
        config: TaskTrainConfig,
        zoo: Zoo,
        evidence: tuple[Evidence, ...],
        *,
        reading: Reading | TextEncoder | None = None,
        conditions: ConditionCodec | None = None,
    ) -> "Ground":
        """Load the base, read the zoo and its tasks, and the left-out tasks; see `task_episodes.prepare`.

        Raises:
            ConfigError: the base has other weights here than the zoo was trained on, all experts are of one family, or
                the tasks to judge on will not do.
            ZooError: the zoo has no expert, or its folds leave one out of account.
            TaskError: a task or its examples are missing.
        """
        backbone, judged = zoo.load_base(), _left_out(config, zoo, evidence)
        material = prepare(config, zoo, backbone, evidence, reading=reading, conditions=conditions)
        judge = Judge.of(judged, config, material, backbone) if judged else None
        # Task vectors were read as those of a new task will be; from here on speed is what matters.
        backbone.model.to(choose_dtype(config.dtype))
        return cls(material, backbone, judge)


@dataclass(frozen=True)
class Fitted:
    """What a training leaves beside the network."""

    epochs: int
    """After which the network is as it was kept."""
    worth: tuple[float, ...]
    """Before training and after each epoch; empty without a judge."""
    history: list[dict[str, float]]
    """Losses, a row a step."""


def fit_through_base(
    config: TaskTrainConfig,
    ground: Ground,
    maker: nn.Module,
    draw: Callable[[torch.Generator], Sequence[TaskBatch]],
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Fitted:
    """Train what makes coordinates (d,) from a `TaskBatch` on the loss of the batch's texts; see `fit_judged`.

    Args:
        config: length and optimiser settings.
        ground: the base, the frame and the judge.
        maker: trained in place.
        draw: the batches of an epoch, ``steps_per_epoch`` of them.
        checkpoints: where the state is kept; an interrupted run goes on from there.
        on_step: called with the number of steps done.
    """
    frame = ground.material.frame
    objective = TaskObjective(ground.backbone, maker, frame, contrast_weight=config.contrast_weight)
    schedule = Schedule(config.epochs, config.steps_per_epoch, config.learning_rate, weight_decay=config.weight_decay)
    return fit_judged(
        objective, maker, draw, schedule, ground.judge, seed=config.seed, checkpoints=checkpoints, on_step=on_step
    )


def fit_judged(
    objective: Objective,
    maker: nn.Module,
    draw: Callable[[torch.Generator], Sequence[Batch]],
    schedule: Schedule,
    judge: "Judge | None",
    *,
    seed: int,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Fitted:
    """Train a maker in place; where there is a judge, leave it as it was when it was worth most.

    It is judged before training and after every epoch: what it was before stays if nothing betters it.
    """
    from loragen.training import fit

    candidates = Candidates(checkpoints)

    def batches(epoch: int) -> Sequence[Batch]:
        return draw(torch.Generator().manual_seed(seed * 1_000_003 + epoch))

    def keep(epoch: int) -> None:
        if judge is not None:
            candidates.add(epoch, judge.worth(maker), maker.state_dict())

    keep(0)
    history = fit(objective, batches, schedule, seed=seed, checkpoints=checkpoints, on_step=on_step, on_epoch=keep)
    if judge is None:
        return Fitted(schedule.epochs, (), history)
    epochs, state = candidates.best()
    maker.load_state_dict(state)
    return Fitted(epochs, tuple(round(candidates.worth[epoch], 4) for epoch in sorted(candidates.worth)), history)


@dataclass(frozen=True, eq=False)
class Judge:
    """Left-out tasks, with what a generator is told of each and what it is told in the control."""

    backbone: Backbone
    frame: Frame
    tasks: tuple[tuple[TaskData, TaskBatch, TaskBatch], ...]

    @classmethod
    def of(cls, tasks: Sequence[Task], config: TaskTrainConfig, material: Material, backbone: Backbone) -> "Judge":
        """Read the left-out tasks' descriptions; the control is the description of the next task in the list.

        Raises:
            TaskError: a task's examples are missing.
        """
        present = torch.tensor([kind == "description" for kind in material.evidence])
        allowed = torch.ones(len(material.tasks), dtype=torch.bool)
        found = []
        for task in tasks:
            examples = task.load_test()
            order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(config.seed))
            first = examples.subset(order[: config.judged_texts])
            data = TaskData.of(task, first, backbone, max_length=config.max_length)
            found.append(TaskBatch(data, material.told(task.description), present, allowed, material.start))
        others = [*found[1:], *found[:1]]
        judged = [(one.data, one, other) for one, other in zip(found, others, strict=True)]
        return cls(backbone, material.frame, tuple(judged))

    @torch.no_grad()
    def worth(self, maker: nn.Module) -> float:
        """Mean score, plus what of it is lost under another task's description; a score is that of both kinds.

        The second part alone would prefer a generator that does harm when it is told something else. The maker is
        judged as it generates, out of its training mode.
        """
        device, is_training = next(maker.parameters()).device, maker.training
        maker.eval()
        found = []
        for data, *told in self.tasks:
            right, other = (self._score(maker(batch.to(device)).cpu(), data) for batch in told)
            found.append(right + (right - other))
        maker.train(is_training)
        return sum(found) / len(found)

    def _score(self, coordinates: Tensor, data: TaskData) -> float:
        scores = measure(self.backbone, self.frame.adapter(coordinates, base=None), data)
        return (scores.accuracy + scores.knn_accuracy) / 2 if isinstance(scores, Scores) else main_score(scores)


def _left_out(config: TaskTrainConfig, zoo: Zoo, evidence: Sequence[Evidence]) -> tuple[Task, ...]:
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
    """The maker after every epoch and what it was worth, on disk where the run can be resumed."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._states: dict[int, bytes] = {}
        self._worth = folder / "worth.json" if folder is not None else None
        kept = json.loads(self._worth.read_text()) if self._worth is not None and self._worth.exists() else {}
        self.worth = {int(epoch): float(value) for epoch, value in kept.items()}

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
        """The epoch that was worth most, the first of equals, and the maker's state after it."""
        epoch = max(sorted(self.worth), key=lambda at: self.worth[at])
        if self._folder is None:
            return epoch, load(self._states[epoch])
        return epoch, load_file(self._folder / f"epoch-{epoch}.safetensors")
