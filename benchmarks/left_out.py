"""Zoos that have not seen some tasks, each with its own SG-LoRA: what confidence and adaptation are fitted on.

    python benchmarks/left_out.py      # six zoos in runs/left-out, 2 min each

A fold of the bundled zoo is a multi-task adapter that has not seen some tasks: some with their whole family (far), some
alone (near). The experts of the other tasks began at other folds, which have; so each is moved to where this fold
would have begun it, by the difference of the two starts. A generator that is trained on the moved experts knows nothing
of the tasks left out, and these can be asked what a generated adapter gains on a task that nobody has seen.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors.torch import save
from score_unseen import TASKS

from loragen.cli import console
from loragen.conditions.text_encoder import TextEncoder
from loragen.files import atomic_folder
from loragen.generation import Pipeline
from loragen.generators.train import read_config, train_generator
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.card import CARD, EXPERTS, MULTITASK_FOLDER, SNAPSHOTS, VARIANCE, ZOO_MANIFEST
from loragen.zoo.folds import Fold
from loragen.zoo.zoo import SPLIT, Zoo

ROOT = Path("runs/left-out")
SG = Path("configs/train/sg.yaml")


@dataclass(frozen=True)
class LeftOut:
    """A task, and the zoo that has not seen it."""

    task: Task
    zoo: Path
    is_far: bool
    """True if the zoo knows no task of its family."""

    @property
    def key(self) -> str:
        """Name of the pair."""
        return f"{self.task.id}@{self.zoo.parent.name}"

    def pipeline(self, name: str, encoder: TextEncoder) -> Pipeline:
        """A generator of that zoo."""
        return Pipeline.open(name, self.zoo, encoder)


def left_out(*, near: bool = True) -> list[LeftOut]:
    """The tasks of experts, each with a zoo that has not seen it: first those of unseen families, then the others."""
    zoo, tasks = Zoo.open(), TaskSet.from_yaml(TASKS)
    found = [
        LeftOut(tasks[name], ROOT / str(number) / "zoo", is_far)
        for number, fold in enumerate(zoo.folds())
        for names, is_far in ((fold.plan.far, True), (fold.plan.near, False))
        for name in names
        if is_far or near
    ]
    return sorted(found, key=lambda each: not each.is_far)


def build() -> Iterator[str]:
    """Write the zoos that are missing and train their generators; says what it does."""
    zoo = Zoo.open().select(splits={SPLIT})
    folds = zoo.folds()
    for number, fold in enumerate(folds):
        folder = ROOT / str(number) / "zoo"
        if not (folder / ZOO_MANIFEST).exists():
            yield f"zoo {number}"
            with atomic_folder(folder) as made:
                _write_zoo(zoo, folds, fold, made)
        out = folder / "generators" / "sg"
        if not out.exists():
            yield f"sg {number}"
            train_generator(read_config(SG, (f"zoo={folder}", f"out={out}")))


def _write_zoo(zoo: Zoo, folds: tuple[Fold, ...], fold: Fold, made: Path) -> None:
    began = {task: other for other in folds for task in other.plan.far}
    for name in zoo.select(without=fold.held_out).ids:
        _move(zoo, name, began[name], fold, made / EXPERTS / name)
    fold.adapter.save(made / MULTITASK_FOLDER)
    manifest = zoo.manifest.model_copy(update={"folds": None})
    (made / ZOO_MANIFEST).write_text(manifest.to_yaml())


def _move(zoo: Zoo, name: str, began: Fold, fold: Fold, folder: Path) -> None:
    adapter, snapshots = zoo.adapter(name), zoo.snapshots(name)
    by = {site: fold.adapter.lora_B[site] - began.adapter.lora_B[site] for site in adapter.sites}
    moved = replace(adapter, lora_B={site: adapter.lora_B[site].float() + by[site] for site in adapter.sites})
    points = {site: (snapshots[site] + by[site]).bfloat16().contiguous() for site in adapter.sites}
    card = (zoo.folder(name) / CARD).read_text()
    moved.save(folder, extra_files={CARD: card, SNAPSHOTS: save(points)})
    shutil.copy(zoo.folder(name) / VARIANCE, folder / VARIANCE)


def main() -> None:
    for line in build():
        console.say(line)


if __name__ == "__main__":
    main()
