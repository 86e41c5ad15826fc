"""Rows of `smollm2.py`: what a row does with a held-out task, and the scores of it."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.language_model import LanguageModel
from loragen.bases.tokenised import TaskData
from loragen.bases.wording import Chat
from loragen.conditions.condition import Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.controls import NONSENSE, OTHER, PARAPHRASE, RIGHT, controls
from loragen.evaluation.workspace import shuffled, task_rng
from loragen.generation import Pipeline
from loragen.tasks.task_set import Task, TaskSet
from loragen.zoo.zoo import Zoo

TASKS = Path("configs/tasks/shapes.yaml")
RUNS = Path("runs/smollm2")
ZOO, ORACLES, RIVAL = RUNS / "zoo", RUNS / "oracles", RUNS / "told"
TEXTS, SEEDS, FEW_LABELS = 40, (0, 1, 2), 6
BASE, TOLD, SHOWN = "base", "base, told the task", "base, told and shown three examples"
MULTI, MULTI_TOLD = "one LoRA for all tasks", "one LoRA for all tasks, told the task"
RANDOM, ORACLE = "random experts", "oracle"
MERGES = ("mean", "nearest", "uniform", "topk", "ridge")
TRAINED = ("sg", "icm", "hyper", "told")
"""Generators by their folder; `told` is a hypernetwork whose adapters are told the task in their prompts."""
MEANS = {f"mean output of {name}": name for name in TRAINED}
INSTRUCTED = (TOLD, SHOWN, MULTI_TOLD, "told", "mean output of told")
"""Rows whose prompts tell the task: the description that the adapter was made from."""
COSTED = (BASE, TOLD, SHOWN)
"""Rows that show what a prompt costs."""
DRAWN = (SHOWN, RANDOM, "sg", "icm")
"""Rows that another seed makes anew."""
ROWS = (BASE, TOLD, SHOWN, *MERGES, RANDOM, MULTI, MULTI_TOLD, *TRAINED, *MEANS, ORACLE)
CONTROLLED = ("topk", "ridge", *TRAINED)
"""Rows that read a description, and so are made for other ones as well."""
REWORDED = ("hyper", "told")
"""Of these, those that are made for paraphrases of it, too: they read it at length."""


@dataclass(frozen=True)
class Cell:
    """A row under a description and a seed."""

    row: str
    control: str
    seed: int
    description: str


def cells(task: Task, others: Sequence[Task], rows: Sequence[str]) -> Iterator[Cell]:
    """All cells of a task."""
    for seed in SEEDS:
        yield from (Cell(row, RIGHT, seed, task.description) for row in rows if seed == SEEDS[0] or row in DRAWN)
    texts = controls(task, others, rng=task_rng(task, "controls"))
    for control, text in texts.items():
        if control in (NONSENSE, OTHER) or control.startswith(PARAPHRASE):
            asked = CONTROLLED if control in (NONSENSE, OTHER) else REWORDED
            yield from (Cell(row, control, SEEDS[0], text) for row in rows if row in asked)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all tasks share."""

    zoo: Zoo
    plain: LanguageModel
    base: LanguageModel
    """The same, which computes what lies below the experts once a text."""
    encoder: TextEncoder
    tasks: TaskSet
    _pipelines: dict[str, Pipeline] = field(default_factory=dict)
    _means: dict[str, Lora] = field(default_factory=dict)

    @classmethod
    def open(cls) -> "Bench":
        """Zoo, base and tasks."""
        zoo = Zoo.open(ZOO).select(splits={"experts"})
        plain = zoo.load_base()
        base = plain.keeping_below(zoo.adapter(zoo.ids[0]).sites)
        assert isinstance(plain, LanguageModel)
        assert isinstance(base, LanguageModel)
        return cls(zoo, plain, base, TextEncoder.load(), TaskSet.from_yaml(TASKS))

    def forgetting(self) -> "Bench":
        """The same with nothing kept of texts that were read."""
        base = self.plain.keeping_below(self.zoo.adapter(self.zoo.ids[0]).sites)
        assert isinstance(base, LanguageModel)
        return replace(self, base=base)

    def pipeline(self, name: str) -> Pipeline:
        """A generator over the experts, opened once."""
        if name not in self._pipelines:
            self._pipelines[name] = Pipeline.open(name, self.zoo, self.encoder)
        return self._pipelines[name]

    def mean_output(self, name: str) -> Lora:
        """The mean of what a generator makes for the experts' descriptions, exact on delta weights."""
        if name not in self._means:
            pipeline = self.pipeline(name)
            made = [pipeline.generate(Evidence(card.description), seed=at)[0] for at, card in enumerate(self.zoo)]
            self._means[name] = weighted_sum([one.adapter for one in made], [1 / len(made)] * len(made))
        return self._means[name]

    @cached_property
    def told(self) -> Lora:
        """The multi-task adapter that was trained with descriptions before its texts."""
        return Lora.load(RIVAL)

    def random_experts(self, task: Task, seed: int) -> Lora:
        """As many experts as topk merges, drawn at random, with its weights and its norm."""
        like = self.pipeline("topk").generate(Evidence(task.description))[0]
        drawn = torch.randperm(len(self.zoo), generator=task_rng(task, f"{RANDOM} {seed}")).tolist()
        adapters = [self.zoo.adapter(self.zoo.ids[at]) for at in drawn[: len(like.neighbours)]]
        weights = [neighbour.weight for neighbour in like.neighbours]
        scale = like.adapter.norm() / weighted_sum(adapters, weights).norm()
        return weighted_sum(adapters, [scale * weight for weight in weights])

    def adapter(self, cell: Cell, task: Task) -> Lora | None:
        """The adapter of a cell; `None` for the bare base."""
        match cell.row:
            case row if row in (BASE, TOLD, SHOWN):
                return None
            case row if row == MULTI:
                return self.zoo.multitask()
            case row if row == MULTI_TOLD:
                return self.told
            case row if row == ORACLE:
                trained = self.zoo if task.id in self.zoo.ids else Zoo.open(ORACLES)
                return trained.adapter(task.id)
            case row if row == RANDOM:
                return self.random_experts(task, cell.seed)
            case row if row in MEANS:
                return self.mean_output(MEANS[row])
            case row:
                return self.pipeline(row).generate(Evidence(cell.description), seed=cell.seed)[0].adapter

    def data(self, cell: Cell, task: Task) -> TaskData:
        """The test texts as a row puts them to the base."""
        texts = shuffled(task).subset(range(TEXTS))
        base = self.base
        if cell.row == SHOWN:
            base = replace(base, prompt=Chat(user=shown_before(base, three_of(task, cell.seed))))
        told = cell.description if cell.row in INSTRUCTED else None
        return base.prepare(texts, max_length=self.zoo.manifest.recipe.score_length, instruction=told)


def three_of(task: Task, seed: int) -> list[tuple[str, str]]:
    """Three training examples, a text and its answer each, of different answers where there are so many."""
    examples = task.load_train()
    pairs, answers = examples.pairs or (None,) * len(examples), examples.outputs
    assert answers is not None
    rows = [
        (text if pair is None else f"{text}\n{pair}", answer)
        for text, pair, answer in zip(examples.texts, pairs, answers, strict=True)
    ]
    drawn = [rows[at] for at in torch.randperm(len(rows), generator=task_rng(task, f"{SHOWN} {seed}")).tolist()]
    firsts = list({answer: (text, answer) for text, answer in reversed(drawn)}.values())[::-1]
    return [*firsts, *drawn][:3]


def shown_before(base: LanguageModel, shown: Sequence[tuple[str, str]]) -> str:
    """Template of a user's turn that stands after examples, each a user's turn and the assistant's."""
    system, asked = {"role": "system", "content": "S"}, {"role": "user", "content": "{text}"}
    turns = [
        {"role": role, "content": content}
        for example in shown
        for role, content in zip(("user", "assistant"), example, strict=True)
    ]
    whole, alone = (
        base.tokenizer.apply_chat_template(said, tokenize=False) for said in ([system, *turns, asked], [system, asked])
    )
    begin, _, end = alone.partition("{text}")
    user: str = whole.removeprefix(begin).removesuffix(end)
    return user


def scored(bench: Bench, cell: Cell, task: Task) -> dict[str, float]:
    """Exact match, bits per byte and tokens of a text; where answers are few, accuracy by their likelihood (one seed).

    Rows that show what a prompt costs have processor seconds of a text as well.
    """
    adapter, data = bench.adapter(cell, task), bench.data(cell, task)
    # Texts that no other row reads, or that are timed: what lies below is not kept.
    is_alone = cell.row in COSTED or (cell.row in INSTRUCTED and cell.control != RIGHT)
    base = bench.plain if is_alone else bench.base
    is_first = (cell.control, cell.seed) == (RIGHT, SEEDS[0])
    has_few = is_first and not data.is_open and len(data.label_ids) <= FEW_LABELS
    begun = time.process_time()
    with base.adapted(adapter):
        own, others = _surprises(base, data, data.label_ids if has_few and base is bench.base else ())
    found = {
        "exact": float(own.likeliest.double().mean()),
        "bits": float(own.nats.sum()) / math.log(2) / sum(map(_size, base.texts_of(data.own_outputs()))),
        "tokens": sum(map(len, data.ids)) / len(data),
    }
    if cell.row in COSTED:
        found["seconds"] = (time.process_time() - begun) / len(data)
    if has_few:
        logits = bench.plain.read(data, adapter).logits if others is None else others
        # Calibrated over the texts: how much likelier an answer is than it is on average (Zhao et al. 2021).
        for name, scores in (("accuracy", logits), ("calibrated", logits - logits.logsumexp(0, keepdim=True))):
            found[name] = float((scores.argmax(1) == data.targets).double().mean())
    return {name: round(value, 5) for name, value in found.items()}


class Own(NamedTuple):
    """What is found of the wanted answers."""

    nats: Tensor
    """(n,)"""
    likeliest: Tensor
    """Bool, (n,)."""


def _surprises(base: LanguageModel, data: TaskData, labels: Sequence[Sequence[int]]) -> tuple[Own, Tensor | None]:
    """Of the wanted answers and, where ``labels`` are given, the log-likelihood of each, (n, labels), in one reading.

    What lies below the experts is kept for rows of a text and an answer, so that reading the texts anew for every
    answer costs less here than going on from what was read of a text.
    """
    if not labels:
        nats, _, likeliest = base.surprises(data.ids, data.own_outputs())
        return Own(nats, likeliest), None
    prompts = [row for row in data.ids for _ in labels]
    nats, _, likeliest = (
        part.reshape(len(data), len(labels)) for part in base.surprises(prompts, [*labels] * len(data))
    )
    at = torch.arange(len(data)), data.targets
    return Own(nats[at], likeliest[at]), -nats


def _size(text: str) -> int:
    return len(text.encode())


def facts(task: Task, split: str, cell: Cell) -> dict[str, Any]:
    """What names a cell."""
    return {"task": task.id, "split": split, "row": cell.row, "control": cell.control, "seed": cell.seed}
