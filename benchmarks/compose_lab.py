"""What benchmarks/compose.py measures on: mixed texts of several experts' tasks, and one row after another."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from loragen.adapters.rank_gate import GatedUpdate
from loragen.bases.base import Base
from loragen.bases.tokenised import TaskData
from loragen.compose.composition import Composition
from loragen.compose.making import Composing, compose_experts
from loragen.compose.mixed import balanced, mixed
from loragen.conditions.text_encoder import TextEncoder
from loragen.generation import ENCODER
from loragen.tasks.examples import Examples
from loragen.tasks.task_set import TaskSet
from loragen.training.threads import one_thread
from loragen.zoo.zoo import Zoo

Sets = Mapping[str, tuple[str, tuple[str, ...]]]
SETS: Sets = {
    "domains": (
        "Tell apart what people ask an assistant for: banking, cards, driving, the home, going out, small talk.",
        (
            *("clinc_banking", "clinc_credit_cards", "clinc_auto_and_commute", "clinc_utility", "clinc_small_talk"),
            *("clinc_meta", "hwu_smart_home", "hwu_conversation", "hwu_questions", "hwu_going_out"),
        ),
    ),
    "families": (
        "Tell requests, film reviews, newsgroup areas, emotions, reasons of citations and contract clauses apart.",
        (
            *("clinc_utility", "review_imdb", "newsgroup_area", "reddit_emotion_basic", "citation_intent"),
            "terms_clause_type",
        ),
    ),
}
"""Set → the task in words, and the experts' tasks that are mixed, all of the split `experts`. Of CLINC's domains
six have experts, the others are held out as tasks; four domains of HWU64 take their places."""
TIMED = 256
"""Texts that time is measured on."""
MAX_LENGTH = 64


@dataclass(frozen=True)
class Figures:
    """One row."""

    accuracy: float
    loss: float
    """Cross-entropy over the union of the labels, in nats."""
    experts_active: float
    """Of a token, mean over sites and tokens; for merges, of the merge."""
    milliseconds: float | None
    """A text, batched; None where the row stands for no adapter that one could have."""


@dataclass(frozen=True, eq=False)
class Lab:
    """One mixed set over the bundled zoo."""

    name: str
    texts: int
    """The most test texts of a task."""
    zoo: Zoo
    base: Base
    tasks: TaskSet

    @classmethod
    def open(cls, name: str, texts: int, *, root: "Lab | None" = None) -> "Lab":
        """Open a set, over the zoo, base and tasks of another where there is one."""
        if root is not None:
            return cls(name, texts, root.zoo, root.base, root.tasks)
        zoo = Zoo.open()
        return cls(name, texts, zoo, zoo.load_base(), TaskSet.from_yaml(Path("configs/tasks/public.yaml")))

    @property
    def ids(self) -> tuple[str, ...]:
        """The experts."""
        return SETS[self.name][1]

    @property
    def description(self) -> str:
        """The set in words."""
        return SETS[self.name][0]

    @cached_property
    def train(self) -> tuple[Examples, ...]:
        """Train texts of each task."""
        return tuple(self.tasks[one].load_train() for one in self.ids)

    @cached_property
    def _test(self) -> tuple[Examples, tuple[int, ...]]:
        rng = torch.Generator().manual_seed(0)
        return mixed(balanced([self.tasks[one].load_test() for one in self.ids], self.texts, rng=rng))

    @property
    def owners(self) -> Tensor:
        """Number of each test text's task."""
        return torch.tensor(self._test[1])

    @cached_property
    def data(self) -> TaskData:
        """Test texts with the labels of all tasks, and without their task's name."""
        return self.base.prepare(self._test[0], max_length=MAX_LENGTH)

    def compose(self, method: str, settings: Mapping[str, Any], *, needs_data: bool) -> Composing:
        """Compose the set's experts by a method."""
        return compose_experts(
            self.ids,
            method=method,
            settings=settings,
            description=self.description,
            data=self.train if needs_data else None,
            zoo=self.zoo,
            base=self.base,
        )

    # --- figures ---

    def logits(self, put: Callable[[], AbstractContextManager[None]]) -> Tensor:
        """Logits of all test texts (n, labels) under what is put on the base."""
        with put():
            return self.base.read(self.data).logits

    def figures(self, put: Callable[[], AbstractContextManager[None]], active: float, *, timed: bool = True) -> Figures:
        """The row of what is put on the base."""
        return self.of_logits(self.logits(put), active, self._milliseconds(put) if timed else None)

    def of_logits(self, logits: Tensor, active: float, milliseconds: float | None = None) -> Figures:
        """The row of some logits."""
        right = float((logits.argmax(1) == self.data.targets).double().mean())
        loss = float(F.cross_entropy(logits.float(), self.data.targets))
        told = None if milliseconds is None else round(milliseconds, 3)
        return Figures(round(right, 4), round(loss, 4), round(active, 2), told)

    @cached_property
    def by_expert(self) -> Tensor:
        """Logits of all test texts under each expert, (experts, n, labels)."""
        return torch.stack([self._under(expert) for expert in self.ids])

    def _under(self, expert: str) -> Tensor:
        adapter = self.zoo.adapter(expert)
        return self.logits(lambda: self.base.adapted(adapter))

    def picked(self, numbers: Tensor) -> Figures:
        """The row in which each text is read under one expert, by its number."""
        return self.of_logits(self.by_expert[numbers, torch.arange(len(numbers))], 1.0)

    def nearest_to_texts(self) -> Tensor:
        """For each test text the number of the expert whose description is nearest to it by cosine."""
        encoder = TextEncoder.load(ENCODER)
        texts = encoder.encode(list(self._test[0].texts))
        described = torch.stack([encoder.encode(list(self.zoo.card(one).descriptions)).mean(0) for one in self.ids])
        return (texts @ F.normalize(described, dim=1).T).argmax(1)

    def _milliseconds(self, put: Callable[[], AbstractContextManager[None]]) -> float:
        rows = self.data.ids[:TIMED]
        times = []
        with one_thread(), put():
            for _ in range(3):
                begun = time.perf_counter()
                self.base.encode(rows)
                times.append(time.perf_counter() - begun)
        return 1000 * median(times) / len(rows)


@contextmanager
def counting(composition: Composition, base: Base, counts: list[float]) -> Iterator[None]:
    """Put a composition on a base, and count the experts that each token has at each site: a number each call."""
    import loragen.compose.composition as room

    plain = room.updates_of

    def counted(experts: Any, gates: Mapping[str, Any]) -> dict[str, GatedUpdate]:
        return plain(experts, {site: _counted(experts.sites[site], gate, counts) for site, gate in gates.items()})

    room.updates_of = counted
    try:
        with composition.put_on(base):
            yield
    finally:
        room.updates_of = plain


def _counted(at: Any, gate: Any, counts: list[float]) -> Any:
    def found(x: Tensor, z: Tensor) -> Tensor:
        g = gate(x, z)
        owners = F.one_hot(at.owners, len(at.ranks)).float()
        counts.append(float(((g != 0).float() @ owners > 0).float().sum(-1).mean()))
        return g

    return found


def experts_active(lab: Lab, composition: Composition) -> float:
    """Experts that a token has on the average, over sites and some texts."""
    counts: list[float] = []
    with counting(composition, lab.base, counts):
        lab.base.encode(lab.data.ids[:64])
    return sum(counts) / len(counts)
