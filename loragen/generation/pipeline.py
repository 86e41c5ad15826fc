"""A generator with the zoo that it draws on and the encoder of descriptions: evidence in, generated adapters out."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.adapters.folders import WEIGHTS_NAME
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.history import History
from loragen.conditions.history_pool import HistoryPool
from loragen.conditions.text_encoder import TextEncoder
from loragen.confidence.confidence import Confidence
from loragen.confidence.coverage import Coverage, Reference
from loragen.confidence.novelty import reference_of
from loragen.exporters.card import HistoryUse
from loragen.generators.base import Generation, Generator
from loragen.generators.behind import Behind
from loragen.generators.history import TrainedPool, find_pool
from loragen.generators.listing import RUN
from loragen.generators.registry import (
    default_generator,
    forgotten_by,
    generator_folder,
    missed_by,
    open_generator,
)
from loragen.training.threads import one_thread
from loragen.values import checked_seed
from loragen.zoo.card import MULTITASK_FOLDER
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo, default_zoo

MOST_SAMPLES = 10_000
"""Adapters that are drawn at once."""
MOST_COMPARED = 2_000
"""Experts of a zoo that `Pipeline.coverage` compares with one another."""
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
"""Text encoder of descriptions, unless another is named."""


@dataclass(frozen=True)
class Pipeline:
    """A generator with the zoo that it draws on and the encoder of descriptions."""

    name: str
    """Of the generator, or its folder."""
    zoo: Zoo
    encoder: TextEncoder
    generator: Generator
    is_restricted: bool = False
    """True if it may draw on experts of some licences alone."""

    @classmethod
    def open(
        cls,
        name: str | None = None,
        zoo: Zoo | Path | str | None = None,
        encoder: TextEncoder | str = ENCODER,
        *,
        licences: Collection[str] | None = None,
        top_k: int | None = None,
    ) -> "Pipeline":
        """Open a generator.

        Args:
            name: of a generator, or its folder; by default sg or, on a zoo without it, the one trained there.
            zoo: the whole zoo; by default the bundled one.
            encoder: embeds descriptions.
            licences: draw on experts of these licences alone.
            top_k: number of experts to draw on, in place of the generator's own setting.

        Raises:
            ZooError: there is no such zoo, or no expert has a licence asked for.
            GeneratorError: there is no such generator, or it cannot do what is asked.
            ConfigError: there is no such encoder.
        """
        opened = zoo if isinstance(zoo, Zoo) else Zoo.open(Path(zoo) if zoo else default_zoo())
        name = default_generator(opened) if name is None else name
        text_encoder = TextEncoder.load(encoder) if isinstance(encoder, str) else encoder
        with one_thread():
            generator = open_generator(name, opened, text_encoder, licences=licences, top_k=top_k)
        return cls(name, opened, text_encoder, generator, licences is not None)

    @cached_property
    def _conditioner(self) -> Conditioner:
        return self._conditioner_with(None)

    @cached_property
    def _history_conditioner(self) -> Conditioner:
        return self._conditioner_with(None if self._pool is None else self._pool.pool)

    def _conditioner_with(self, pool: HistoryPool | None) -> Conditioner:
        return Conditioner(self.encoder, self.generator.reading, self.generator.evidence, pool)

    @cached_property
    def _pool(self) -> TrainedPool | None:
        """The trained pool of histories beside the generator; `None` where there is none.

        Raises:
            GeneratorError: it is damaged, or was trained with other experts or another encoder.
        """
        folder = generator_folder(self.name, self.zoo)
        return find_pool(self.zoo.root / "generators" if folder is None else folder.parent, self.zoo, self.encoder)

    def use_of(self, history: History) -> HistoryUse:
        """What cards say of a history that this pipeline reads."""
        pool = "untrained" if self._pool is None else "trained"
        return HistoryUse(texts=len(history), labelled=history.labels is not None, pool=pool)

    def similarity(self, evidence: Evidence) -> float:
        """Cosine of a task and the nearest expert: of its description or, with a history, of what both say."""
        with one_thread():
            if evidence.history is None:
                query = self.encoder.encode([evidence.description])[0]
            else:
                query = self._history_conditioner.read_history(evidence).query
            (hit,) = self.experts.index.search(query, 1)
        return hit.similarity

    def coverage(self, description: str) -> Coverage | None:
        """How well the experts cover a task; `None` where they are too many, or of too few families, to tell soon."""
        if self._reference is None:
            return None
        with one_thread():
            (hit,) = self.experts.index.search(self.encoder.encode([description])[0], 1)
        return self._reference.coverage(hit.similarity, "description", [(hit.id, hit.similarity)])

    @cached_property
    def _reference(self) -> Reference | None:
        with one_thread():
            return reference_of(self.experts) if len(self.experts.zoo) <= MOST_COMPARED else None

    @cached_property
    def experts(self) -> ExpertIndex:
        """The experts of the zoo by description, all licences among them."""
        return ExpertIndex.of(self.zoo.drawn_on, self.encoder)

    @cached_property
    def behind(self) -> Behind | None:
        """What the generator has missed of the zoo; `None` where that is nothing, and for merges."""
        return missed_by(self.generator, self.zoo)

    def config_of_generator(self) -> Path:
        """The config that the generator was trained with, as its folder keeps it."""
        return (generator_folder(self.name, self.zoo) or Path(self.name)) / RUN

    @cached_property
    def nearest(self) -> "Pipeline":
        """The merge of the nearest experts."""
        return Pipeline.open("topk", self.zoo, self.encoder)

    @cached_property
    def shared(self) -> Lora | None:
        """The zoo's one adapter for all tasks, where it has one."""
        return self.zoo.multitask() if (self.zoo.root / MULTITASK_FOLDER / WEIGHTS_NAME).is_file() else None

    @cached_property
    def confidence(self) -> Confidence | None:
        """Models of what this generator's adapters gain; `None` where none were fitted for it and the zoo.

        They were fitted for a generator that had seen the experts of the zoo and forgotten none: of one that is behind,
        or edited, nothing is known.

        Raises:
            ConfigError: their file is damaged.
        """
        if self.behind is not None or forgotten_by(self.generator):
            return None
        return Confidence.of(self.name, self.zoo)

    @property
    def reads_examples(self) -> bool:
        """True if the generator reads texts of the task beside its description."""
        return bool({"texts", "examples"} & set(self.generator.evidence))

    def generate(self, evidence: Evidence, *, seed: int = 0, samples: int = 1) -> list[Generation]:
        """Generate adapters; the same seed gives the same bytes on a machine, with any number of threads.

        Evidence of kinds that the generator does not read does not bear on them.

        Raises:
            GeneratorError: something that the generator needs is missing.
        """
        rng = torch.Generator().manual_seed(checked_seed(seed))
        with one_thread():
            conditioner = self._conditioner if evidence.history is None else self._history_conditioner
            condition = conditioner.condition(evidence)
            made = self.generator.generate(condition, rng=rng, num_samples=samples)
        if self.behind is None or not self.behind.gone:
            return made
        gone = frozenset(self.behind.gone)
        return [replace(one, neighbours=tuple(n for n in one.neighbours if n.id not in gone)) for one in made]
