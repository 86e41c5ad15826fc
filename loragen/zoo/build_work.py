"""All work of a build: experts and folds that are there, and those still to be trained."""

from dataclasses import dataclass
from pathlib import Path

import torch

from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.build_config import ZooConfig
from loragen.zoo.build_jobs import Job, ScoreExpert, TrainExpert, TrainFold
from loragen.zoo.card import CARD, EXPERTS, MULTITASK_FOLDER, ZOO_MANIFEST, Card, Manifest
from loragen.zoo.folds import FOLDS, FoldPlan, plan_folds
from loragen.zoo.start import START


@dataclass(frozen=True)
class BuildWork:
    """All work of a build, done and to be done."""

    config: ZooConfig
    """With numbers of steps that were left open filled in."""
    experts: tuple[tuple[Task, str], ...]
    """Tasks to have an expert, each with its split."""
    pooled: tuple[Task, ...]
    """Tasks of the multi-task adapter, of gradients and of the folds, where these are asked for."""
    folds: tuple[FoldPlan, ...]

    @classmethod
    def of(cls, config: ZooConfig) -> "BuildWork":
        """Read the tasks of a config and assign them to folds.

        Raises:
            ConfigError: tasks or folds are asked for that there cannot be.
            TaskError: the task file is damaged or has no such split.
        """
        task_set = TaskSet.from_yaml(config.tasks)
        experts = config.expert_tasks(task_set)
        pools = config.folds is not None or (config.wants_pooled and not (config.out / START).exists())
        pooled = config.pooled_tasks(task_set) if pools else ()
        sized = config.sized(len(pooled), manifest_there(config.out))
        plans: tuple[FoldPlan, ...] = ()
        if sized.folds is not None:
            rng = torch.Generator().manual_seed(sized.recipe.seed)
            plans = plan_folds(pooled, sized.folds.number, rng=rng)
        return cls(sized, tuple(experts), pooled, plans)

    @property
    def lacks_multitask(self) -> bool:
        """True if the multi-task adapter is asked for and not there."""
        there = (self.config.out / START, self.config.out / MULTITASK_FOLDER)
        return self.config.wants_multitask and not any(path.exists() for path in there)

    def cards(self) -> dict[str, Card | None]:
        """The card of each expert by its id; None for those to be trained."""
        paths = {task.id: self.config.out / EXPERTS / task.id / CARD for task, _ in self.experts}
        return {name: Card.from_yaml(path) if path.exists() else None for name, path in paths.items()}

    def lacks_score(self, card: Card) -> bool:
        """True if an expert that is there is still to be scored."""
        return self.config.score and card.after is None

    def expert_jobs(self) -> list[Job]:
        """Experts that are not there yet, to train, and those that lack scores, to score."""
        jobs: list[Job] = []
        cards = self.cards()
        for task, split in self.experts:
            card = cards[task.id]
            if card is None:
                jobs.append(TrainExpert(task, split))
            elif self.lacks_score(card):
                jobs.append(ScoreExpert(task, card))
        return jobs

    def fold_jobs(self) -> list[Job]:
        """Folds to train that are not there yet."""
        return [
            TrainFold(number, plan, tuple(task for task in self.pooled if task.id not in plan.held_out))
            for number, plan in enumerate(self.folds)
            if not (self.config.out / FOLDS / str(number)).exists()
        ]


def manifest_there(zoo: Path) -> Manifest | None:
    """The manifest of a zoo; None where there is no zoo yet, nor anything but a manifest of a build that failed."""
    path = zoo / ZOO_MANIFEST
    if not path.exists():
        return None
    there = Manifest.from_yaml(path)  # even if it stands alone: a file of that name may be anything
    is_alone = all(other.name == ZOO_MANIFEST or other.name.startswith(".") for other in zoo.iterdir())
    return None if is_alone else there
