"""Fits the descriptors of a zoo's experts to the texts of their tasks, and keeps them beside the zoo."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from loragen.bases.base import Base
from loragen.confidence.descriptors import DESCRIPTORS, Descriptors, features
from loragen.errors import ZooError
from loragen.files import refuse_to_replace
from loragen.locks import lock
from loragen.progress import Progress, silent
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import TaskSet
from loragen.zoo.zoo import SPLIT, Zoo

SEEN, HELD_OUT, FEWEST_TEXTS = 200, 50, 40
"""Texts of an expert's train file that describe it, others that distances are measured on, and fewest of both."""


@dataclass(frozen=True)
class Described:
    """Experts whose texts a zoo knows now, and those that were left out."""

    file: Path
    experts: tuple[str, ...]
    missing: tuple[str, ...]
    """Without a task of their name, or with too few texts."""


def describe_zoo(
    tasks: TaskSet | Path | str,
    zoo: Zoo | Path | None = None,
    *,
    force: bool = False,
    base: Base | None = None,
    progress: Progress = silent,
) -> Described:
    """Read the texts of the experts' tasks and keep a descriptor of each expert beside the zoo, for `novelty`.

    Args:
        tasks: the tasks that the experts were trained on, by the same ids; train files alone are read.
        zoo: the zoo; by default the bundled one.
        force: replace descriptors that are there.
        base: the zoo's base, where it is open already.
        progress: called with the stage, the experts done and their number.

    Raises:
        ZooError: there is no such zoo, or the experts with texts are of too few families.
        TaskError: the tasks cannot be read.
        ConfigError: there are descriptors already, or another process writes there.
    """
    opened = zoo if isinstance(zoo, Zoo) else Zoo.open(zoo)
    given = tasks if isinstance(tasks, TaskSet) else TaskSet.from_yaml(Path(tasks))
    file = opened.root / DESCRIPTORS
    if file.exists() and not force:
        refuse_to_replace([file], force=False)
    experts = opened.select(splits={SPLIT})
    known = {task.id: task for task in given}
    with lock(file):
        base = base or opened.load_base()
        seen: dict[str, Tensor] = {}
        held_out: dict[str, Tensor] = {}
        for done, name in enumerate(experts.ids):
            progress("reading the experts' texts", done, len(experts))
            if name not in known:
                continue
            some = _some(known[name].load_train())
            if len(some) >= FEWEST_TEXTS:
                rows = features(some, base, max_length=opened.manifest.recipe.max_length)
                cut = max(len(rows) - HELD_OUT, 4 * len(rows) // 5)
                seen[name], held_out[name] = rows[:cut], rows[cut:]
        progress("reading the experts' texts", len(experts), len(experts))
        if not seen:
            raise ZooError("None of the tasks has the name of an expert; give the tasks that the zoo was built from.")
        families = {name: experts.card(name).family or name for name in seen}
        Descriptors.fit(seen, held_out, families, opened.manifest.base_hash).save(opened.root)
    return Described(file, tuple(seen), tuple(name for name in experts.ids if name not in seen))


def _some(examples: Examples) -> Examples:
    """As many texts as are read, drawn at random, the same each time."""
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(0))
    return examples.subset(order[: SEEN + HELD_OUT]).unlabelled()
