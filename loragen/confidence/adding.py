"""Takes an expert for a task into a zoo only where the zoo does not know the task already."""

from pathlib import Path

from loragen.bases.devices import DeviceName
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.coverage import Coverage, decide
from loragen.confidence.descriptors import DESCRIPTORS
from loragen.confidence.novelty import novelty
from loragen.paths import is_file
from loragen.progress import Progress, silent
from loragen.tasks.task_set import TaskSet
from loragen.zoo.add import Added, add_expert
from loragen.zoo.zoo import Zoo

MOST_TEXTS = 200
"""Texts of the task's train file that are looked at."""


def add_if_new(
    task: str,
    zoo: Zoo | Path | str,
    tasks: Path,
    *,
    split: str | None = None,
    score: bool = True,
    device: DeviceName = "cpu",
    encoder: TextEncoder | None = None,
    progress: Progress = silent,
) -> tuple[Coverage, Added | None]:
    """Train an expert for a task and add it to a zoo if the task is new to it; nothing is written if it is not.

    The task is known by its description and, where the zoo has descriptors of its experts' texts, by the first texts of
    its train file too.

    Args:
        task: its id.
        zoo: the zoo, its folder, or the name of one.
        tasks: the task file.
        split: of the expert; see `add_expert`.
        score: score the expert on the task's test file.
        device: to train on.
        encoder: embeds descriptions; by default the bundled one.
        progress: called with the stage, the steps done and their total.

    Returns:
        How well the zoo covers the task, and the expert; `None` where it is covered or near: reuse the nearest expert,
        or generate an adapter.

    Raises:
        ZooError: there is no such zoo, it has an expert of that name, cannot train experts, or holds too few families.
        TaskError: there is no such task, or its data cannot be used.
        ConfigError: options do not go together, or another process writes there.
    """
    opened, found = zoo if isinstance(zoo, Zoo) else Zoo.open(Path(zoo)), TaskSet.from_yaml(tasks)[task]
    text_encoder = TextEncoder.load() if encoder is None else encoder
    progress("looking how new the task is", 0, 1)
    examples = found.load_train() if is_file(opened.root / DESCRIPTORS) else None
    texts = None if examples is None else examples.subset(range(min(MOST_TEXTS, len(examples))))
    coverage = novelty(found.description, texts=texts, zoo=opened, encoder=text_encoder)
    progress("looking how new the task is", 1, 1)
    if decide(coverage) != "train":
        return coverage, None
    added = add_expert(
        task, opened, tasks=tasks, split=split, score=score, device=device, encoder=encoder, progress=progress
    )
    return coverage, added
