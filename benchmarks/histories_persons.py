"""The synthetic persons of `histories.py`: what they write about, their histories, and texts to judge adapters on.

Tasks are of the splits `experts` and `validation`, of kinds that several tasks have and whose label names can be put
together; tasks of pairs are left out. Person ``n`` of a group is the same in every run.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from score_unseen import TASKS

from loragen.conditions.history import History
from loragen.generators.history_fit import HistoryTrainConfig
from loragen.tasks.examples import Examples
from loragen.tasks.persons import Domain, Person
from loragen.tasks.task_set import Task, TaskSet

GROUPS = ("known texts", "new persons", "new domains")
KINDS = {
    "intent": "Tell what I want.",
    "topic": "Sort my texts by what they are about.",
    "sentiment": "Tell how I feel about it.",
}
"""The kinds of tasks, and what a person says of its own."""
LONGEST, TEST_TEXTS, OTHERS = 64, 100, 20
"""Texts of a history, texts to judge on, and persons whose texts are dealt anew."""
CONFIG = Path("configs/train/history.yaml")


@dataclass(frozen=True)
class Told:
    """A person and what is known of it."""

    person: Person
    description: str
    history: Examples
    """Its past texts with their labels; a shorter history is the first of them."""
    test: Examples
    """Other texts of the person, from the test files, labelled among all labels of its domains."""


@dataclass(frozen=True)
class Known:
    """The persons of all groups."""

    tasks: dict[str, list[Task]]
    """By split."""
    pool: HistoryTrainConfig
    """Says which texts the pool is trained on."""
    _told: dict[tuple[str, int], Told] = field(default_factory=dict)
    _parts: dict[tuple[str, str], Examples] = field(default_factory=dict)

    @classmethod
    def read(cls) -> "Known":
        """The tasks of the two splits, and the config of the pool."""
        tasks, parts = TaskSet.from_yaml(TASKS), {}
        splits: dict[str, list[Task]] = {"experts": [], "validation": []}
        for split, own in splits.items():
            for task in (task for task in tasks.split(split) if task.kind in KINDS):
                examples = task.load_train()
                if examples.pairs is None:
                    own.append(task)
                    parts[task.id, "train"] = examples
        for split, own in splits.items():
            kinds = Counter(task.kind for task in own)
            splits[split] = [task for task in own if kinds[task.kind] > 1]
        return cls(splits, HistoryTrainConfig.from_yaml(CONFIG), _parts=parts)

    def told(self, group: str, number: int) -> Told:
        """Person ``number`` of a group."""
        if (group, number) not in self._told:
            self._told[group, number] = self._drawn(group, number)
        return self._told[group, number]

    def dealt(self, group: str, number: int, length: int) -> History:
        """A history of texts of the twenty persons after this one, one of each in turn."""
        texts = []
        for at in range(length):
            history = self.told(group, number + 1 + at % OTHERS).history
            texts.append(history.texts[(at // OTHERS) % len(history)])
        return History.of(Examples(tuple(texts)))

    def _drawn(self, group: str, number: int) -> Told:
        split = "validation" if group == "new domains" else "experts"  # persons of the first groups are the same
        rng, of_texts, of_tests = (torch.Generator().manual_seed(3 * number + at) for at in range(3))
        tasks = {task.id: task for task in self.tasks[split]}
        domains = [Domain(task.id, task.kind, len(task.labels)) for task in tasks.values()]
        person = Person.draw(domains, fewest=2, most=3, rng=rng)
        own = [tasks[name] for name in person.domains]
        names = tuple(dict.fromkeys(label.strip().casefold() for task in own for label in task.labels))
        past, later = ([self._part(task, group, part) for task in own] for part in ("train", "test"))
        return Told(
            person,
            KINDS[own[0].kind],
            _written(person, past, LONGEST, names, of_texts),
            _written(person, later, TEST_TEXTS, names, of_tests),
        )

    def _part(self, task: Task, group: str, part: str) -> Examples:
        """What a person may write about a task: all test texts, or those training texts that its group allows."""
        key = (task.id, part)
        if key not in self._parts:
            self._parts[key] = task.load_test()
        examples = self._parts[key]
        if part == "test" or group == "new domains":
            return examples
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(self.pool.seed))
        seen, unseen = order[: self.pool.texts], order[self.pool.texts :]
        return examples.subset(seen if group == "known texts" or len(unseen) < LONGEST else unseen)


def _written(
    person: Person, parts: list[Examples], number: int, names: tuple[str, ...], rng: torch.Generator
) -> Examples:
    """Texts that a person writes of some that there are, with their labels among ``names``."""
    labels = [part.labels or () for part in parts]
    texts = [text for part in parts for text in part.texts]
    outputs = [output.strip().casefold() for part in parts for output in part.outputs or ()]
    rows = person.draw_texts(labels, number, rng=rng).tolist()
    return Examples(
        tuple(texts[row] for row in rows),
        labels=tuple(names.index(outputs[row]) for row in rows),
        label_names=names,
    )
