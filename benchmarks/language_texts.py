"""Texts by domain for `language.py`: what the base, the experts and the tests there are given, none of it twice."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loragen.errors import TaskError
from loragen.files import atomic_write
from loragen.tasks.task_set import Task, TaskSet

SEEN, UNSEEN = "experts", "unseen"
"""Splits of the domains."""
WORDS = 3
"""A text has at least so many: the second half of some pairs is a single term."""


@dataclass(frozen=True)
class Part:
    """Texts of one domain, without repetitions."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Texts:
    """What there is to read."""

    base: tuple[str, ...]
    """Train files of the experts' tasks, those of unseen domains left out."""
    domains: Mapping[str, Part]
    """By the id of the domain's task."""


def gather(tasks: TaskSet, domains: TaskSet) -> Texts:
    """Sort the texts of the experts' tasks by domain; the other splits' texts are nowhere among them.

    What stands in a test file of any domain is no text to learn from, and what an unseen domain has, to learn from or
    to be scored on, is left to it alone.

    Args:
        tasks: what texts are taken from.
        domains: a task a domain, in the splits `SEEN` and `UNSEEN`.

    Raises:
        TaskError: no experts' task is of such a domain.
    """
    experts = tasks.split("experts")
    others = [task for split in tasks.splits if split != "experts" for task in tasks.split(split)]
    elsewhere = {**_texts(others, "train"), **_texts(others, "test")}
    tested = _texts(experts, "test")
    unseen = {task.domain for task in domains.split(UNSEEN)}
    held_out = [task for task in experts if task.domain in unseen]
    hidden = {**_texts(held_out, "train"), **_texts(held_out, "test")}

    def parts(task: Task) -> Part:
        own = [expert for expert in experts if expert.domain == task.domain]
        closed = elsewhere if task.domain in unseen else {**elsewhere, **hidden}
        train, test = _without(_texts(own, "train"), closed, tested), _without(_texts(own, "test"), closed)
        if not train or not test:
            raise TaskError(
                f"No text is left for the domain {task.domain!r}: {len(own)} tasks of the experts have it; name a "
                "domain of theirs."
            )
        return Part(train, test)

    base = _without(_texts([task for task in experts if task.domain not in unseen], "train"), elsewhere, hidden, tested)
    return Texts(base, {task.id: parts(task) for task in domains})


def write_domains(texts: Texts, domains: TaskSet) -> None:
    """Write the files that the domains' tasks name."""
    for task in domains:
        part = texts.domains[task.id]
        for place, lines in ((task.source.train, part.train), (task.source.test, part.test)):
            assert place is not None
            rows = (json.dumps({"text": text}, ensure_ascii=False) for text in lines)
            atomic_write(Path(place), "\n".join(rows) + "\n")


def _without(texts: Mapping[str, str], *closed: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(text for key, text in texts.items() if not any(key in others for others in closed))


def _texts(tasks: Iterable[Task], part: Literal["train", "test"]) -> dict[str, str]:
    """Texts of some tasks' files by what they are compared by, in their order; pairs count as two texts."""
    return {_key(text): text for task in tasks for text in _of(task, part)}


def _of(task: Task, part: Literal["train", "test"]) -> Iterator[str]:
    examples = task.load_train() if part == "train" else task.load_test()
    for text in (*examples.texts, *(examples.pairs or ())):
        if len(text.split()) >= WORDS:
            yield text.strip()


def _key(text: str) -> str:
    """Texts that differ in case and spaces alone are the same."""
    return " ".join(text.casefold().split())
