"""Trains the attention pool of histories on synthetic persons.

A person writes about some experts' tasks in some shares (`Person`). Its adapter is taken to be the mean of those tasks'
experts in these shares, t in codes; the pool reads some of its texts, and is trained so that the mixture that its
query gives comes near to that:

    ‖ Σ gₖ(q) μₖ - t ‖² / mean ‖μₖ‖²        gₖ = softmax over the nearest experts of cos(q, eₖ) / T

For a part of the persons their own experts may not serve, as for domains that the zoo does not know. A part of the
histories has labels; a part of the persons has a description, of one of the domains. RecLoRA trains its gate with the
adapters on a person's clicks instead; here the adapters are given.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from loragen.conditions.history import LONGEST_READ, with_labels
from loragen.conditions.history_pool import HistoryPool, PoolConfig
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import ConfigError
from loragen.generators.history import HistoryManifest, TrainedPool
from loragen.generators.sg.fit import SGData, read_experts
from loragen.generators.sg.model import SGLibrary
from loragen.generators.trained import TrainConfig, subfolder
from loragen.tasks.persons import Domain, Person
from loragen.tasks.task_set import TaskSet
from loragen.training.objective import Objective
from loragen.training.ranks import Rank
from loragen.values import LARGEST_LAYER, MOST_EXAMPLES, MOST_PARTS, Shots
from loragen.zoo.zoo import Zoo


class HistoryTrainConfig(TrainConfig):
    """Settings of `loragen train` for the attention pool of histories."""

    generator: Literal["history"]
    tasks: Path
    """The experts' tasks, whose training texts the persons write."""
    tasks_root: Path | None = None
    """Folder of the tasks' files, if not the one that file names."""
    pool: PoolConfig = PoolConfig()
    texts: int = Field(96, ge=1, le=MOST_EXAMPLES)
    """Training texts a task that persons draw from: the first ones in a random order."""
    lengths: tuple[Shots, ...] = Field((4, 8, 16, 32, 64), min_length=1)
    """Of the histories."""
    most_domains: int = Field(3, ge=1, le=MOST_PARTS)
    """Domains of a person; at least 1."""
    unseen: float = Field(0.5, ge=0, le=1)
    """Share of the persons whose own experts may not serve."""
    labelled: float = Field(0.5, ge=0, le=1)
    """Share of the histories that have labels."""
    described: float = Field(0.7, ge=0, le=1)
    """Share of the persons with a description, which is that of one of their domains."""
    top_k: int = Field(8, ge=1, le=MOST_EXAMPLES)
    """Experts of a mixture, and T: those of the generator that the pool will serve."""
    temperature: float = Field(0.1, gt=0)
    components: int | None = Field(100, ge=1, le=LARGEST_LAYER)
    """Principal directions of the experts' coordinates that adapters are compared in; null keeps all."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps_of_a_training


@dataclass(frozen=True, eq=False)
class Corpus:
    """What persons write: the texts of the experts' tasks, embedded."""

    domains: tuple[Domain, ...]
    """In the order of the experts."""
    labels: tuple[tuple[int, ...], ...]
    """Of each domain's texts."""
    items: Tensor
    """Unit vectors of all texts without their labels, then of all with them, (2n, c)."""

    @cached_property
    def rows(self) -> tuple[Tensor, ...]:
        """Rows of each domain's texts without their labels."""
        return tuple(torch.split(torch.arange(len(self.items) // 2), [len(own) for own in self.labels]))


@dataclass(frozen=True, eq=False)
class HistoryBatch:
    """Persons with their histories."""

    rows: Tensor
    """Of the corpus, (b, n)."""
    present: Tensor
    """Which of them there are, (b, n)."""
    description: Tensor
    """Unit embeddings, (b, c)."""
    described: Tensor
    """Which persons have one, (b,)."""
    absent: Tensor
    """Experts that may not serve, (b, experts)."""
    target: Tensor
    """Codes of the persons' adapters, (b, k)."""

    def to(self, device: torch.device) -> "HistoryBatch":
        """The same batch on a device."""
        return HistoryBatch(*(value.to(device) for value in vars(self).values()))

    def part(self, rank: Rank) -> "HistoryBatch":
        """The rows of one of several processes."""
        own = rank.rows(len(self.rows))
        return HistoryBatch(*(value[own] for value in vars(self).values()))


class HistoryObjective(Objective):
    """‖ Σ gₖ(q) μₖ - t ‖² / mean ‖μₖ‖², averaged over the batch."""

    items: Tensor
    means: Tensor
    embeddings: Tensor

    def __init__(self, pool: HistoryPool, items: Tensor, library: SGLibrary, config: HistoryTrainConfig) -> None:
        super().__init__()
        self.pool = pool
        self.top_k, self.temperature = config.top_k, config.temperature
        for name, value in (("items", items), ("means", library.means), ("embeddings", library.embeddings)):
            self.register_buffer(name, value, persistent=False)

    def loss(self, batch: HistoryBatch) -> dict[str, Tensor]:
        """Beside the loss, the cosine of the mixture and what was wanted."""
        pooled = self.pool.read(self.items[batch.rows], batch.present, batch.description, batch.described)
        similarities = (pooled.query @ self.embeddings.T).masked_fill(batch.absent, -torch.inf)
        kept = similarities.topk(min(self.top_k, similarities.shape[1]), dim=1)
        gate = torch.softmax(kept.values / self.temperature, dim=1)
        mixed = (gate[..., None] * self.means[kept.indices]).sum(1)
        error = (mixed - batch.target).square().sum(1).mean() / self.means.square().sum(1).mean()
        return {"loss": error, "cosine": torch.cosine_similarity(mixed, batch.target).mean()}


def read_corpus(config: HistoryTrainConfig, zoo: Zoo, encoder: TextEncoder) -> Corpus:
    """Embed training texts of the experts' tasks, and their labels' names.

    Raises:
        TaskError: a task or its examples are missing.
        ConfigError: a task has no labels.
    """
    task_set = TaskSet.from_yaml(config.tasks, root=config.tasks_root)
    domains, positions, texts, names = [], [], [], []
    for expert in zoo.ids:
        task = task_set[expert]
        examples = task.load_train()
        if examples.labels is None:
            raise ConfigError(f"The task {expert} has no labels, and persons are told by the labels that they prefer.")
        rng = torch.Generator().manual_seed(config.seed)
        some = examples.subset(torch.randperm(len(examples), generator=rng)[: config.texts])
        pairs = some.pairs or ("",) * len(some)
        texts += [f"{one} {other}".strip()[:LONGEST_READ] for one, other in zip(some.texts, pairs, strict=True)]
        names += list(some.outputs or ())
        positions.append(some.labels or ())
        domains.append(Domain(expert, task.kind, len(task.labels)))
    known = list(dict.fromkeys(names))
    at = {name: place for place, name in enumerate(known)}
    embedded = encoder.encode(texts)
    labelled = with_labels(embedded, encoder.encode(known)[[at[name] for name in names]])
    return Corpus(tuple(domains), tuple(positions), torch.cat([embedded, labelled]))


def person_batches(
    data: SGData, corpus: Corpus, config: HistoryTrainConfig, *, rng: torch.Generator
) -> list[HistoryBatch]:
    """One epoch: each sample draws a person, the length of its history, and what is known of it."""
    drawn = [_person(data, corpus, config, rng) for _ in range(config.steps_per_epoch * config.batch_size)]
    batches = []
    for start in range(0, len(drawn), config.batch_size):
        rows, described, descriptions, absent, targets = zip(*drawn[start : start + config.batch_size], strict=True)
        lengths = torch.tensor([len(own) for own in rows])
        padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        present = torch.arange(padded.shape[1]) < lengths[:, None]
        stacked = [torch.stack(values) for values in (descriptions, absent, targets)]
        batches.append(HistoryBatch(padded, present, stacked[0], torch.tensor(described), *stacked[1:]))
    return batches


def _person(
    data: SGData, corpus: Corpus, config: HistoryTrainConfig, rng: torch.Generator
) -> tuple[Tensor, bool, Tensor, Tensor, Tensor]:
    """Rows of a person's texts, whether it has a description, that, the experts that may not serve, and its adapter."""
    person = Person.draw(corpus.domains, fewest=1, most=config.most_domains, rng=rng)
    names = [domain.name for domain in corpus.domains]
    own = [names.index(name) for name in person.domains]
    length = config.lengths[int(torch.randint(len(config.lengths), (), generator=rng))]
    labels = [corpus.labels[at] for at in own]
    unseen, labelled, described = (
        float(torch.rand((), generator=rng)) < share for share in (config.unseen, config.labelled, config.described)
    )
    rows = torch.cat([corpus.rows[at] for at in own])[person.draw_texts(labels, length, rng=rng)]
    if labelled:
        rows = rows + len(corpus.items) // 2
    ways = data.paraphrases[own[int(torch.randint(len(own), (), generator=rng))]]
    description = ways[int(torch.randint(len(ways), (), generator=rng))]
    absent = torch.zeros(len(names), dtype=torch.bool)
    if unseen and len(own) < len(names):
        absent[own] = True
    target = torch.tensor(person.shares, dtype=torch.float32) @ data.library.means[own]
    return rows, described, description, absent, target


def fit_history(
    config: HistoryTrainConfig,
    zoo: Zoo,
    encoder: TextEncoder,
    *,
    checkpoints: Path | None = None,
    on_step: Callable[[int], None] | None = None,
) -> tuple[TrainedPool, list[dict[str, float]]]:
    """Train the pool on the experts of a zoo; returns it and its losses, a row a step.

    Raises:
        ZooError: the zoo has no expert, or an expert's statistics are damaged.
        TaskError: a task or its examples are missing.
    """
    from loragen.training.lightning_fit import fit

    data = read_experts(zoo, encoder, components=config.components)
    corpus = read_corpus(config, zoo, replace(encoder, cache=subfolder(checkpoints, "embeddings")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        pool = HistoryPool(corpus.items.shape[1], config.pool)

    def batches(epoch: int) -> list[HistoryBatch]:
        rng = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
        return person_batches(data, corpus, config, rng=rng)

    history = fit(
        HistoryObjective(pool, corpus.items, data.library, config),
        batches,
        config.schedule,
        seed=config.seed,
        checkpoints=subfolder(checkpoints, "weights"),
        on_step=on_step,
        devices=config.hardware,
    )
    manifest = HistoryManifest(**HistoryManifest.facts(zoo, encoder), pool=config.pool)
    return TrainedPool(manifest, pool.cpu().eval().requires_grad_(False)), history
