"""From a generated adapter to the one that is given out: fitted to examples, adapted to texts, judged."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from loragen.adaptation.self_training import AdaptRecipe, self_train
from loragen.adapters.adapter import Lora
from loragen.bases.base import Base
from loragen.bases.tokenised import Readout, TaskData
from loragen.generation.given import Given
from loragen.generation.judge import Judge, Verdict
from loragen.generation.pipeline import Pipeline
from loragen.generators.base import Generation
from loragen.progress import Progress, silent
from loragen.recipes.few_shot import FewShotRecipe, fit_examples, prepare_examples


@dataclass(frozen=True, eq=False)
class Refined:
    """An adapter to give out, and how it came about."""

    verdict: Verdict
    fitted: FewShotRecipe | None = None
    """Settings of its fit to labelled examples, if there was one."""
    adapted: AdaptRecipe | None = None
    """Settings of its self-training on unlabelled texts, if there was one."""


@dataclass(frozen=True, eq=False)
class Refiner:
    """Refines the adapters that one pipeline generates for one task."""

    pipeline: Pipeline
    given: Given
    fallback: bool = True
    """Give out a safer adapter where this one is expected to gain nothing."""
    adapt: AdaptRecipe = field(default_factory=AdaptRecipe)
    fit: FewShotRecipe = field(default_factory=FewShotRecipe)
    samples: int = 1
    """Adapters to come: progress counts the steps of all."""
    progress: Progress = field(default=silent)

    @cached_property
    def base(self) -> Base:
        """The base, loaded when texts or examples are to be read through it."""
        return self.pipeline.zoo.load_base()

    @cached_property
    def judge(self) -> Judge:
        """What knows the gains of this pipeline's adapters."""
        description = self.given.evidence.description
        return Judge.of(self.pipeline, description, self.given.label_names, fallback=self.fallback)

    def refine(self, generation: Generation, number: int = 0) -> Refined:
        """Refine one adapter, the ``number``-th of the samples, counted from 0.

        Raises:
            TaskError: the examples have no labels, or those of one class alone.
            ConfigError: the base is not at hand, or has other weights than the zoo was trained on.
            GeneratorError: no adapter can be expected to gain anything, and ``fallback`` is set.
        """
        if self.given.texts is None and not self.given.fit:
            return Refined(self.judge.of_description(generation))
        if self.judge.says_nothing and self.judge.safer is not None:
            generation = replace(generation, adapter=self.judge.safer)
        if self.given.fit:
            generation = replace(generation, adapter=self._fitted(generation.adapter, number))
            if self.given.texts is None:
                return Refined(self.judge.unjudged("generated", generation.adapter), self.fit)
        bare, before, adapted = self._adapted(generation.adapter, number)
        if self.given.fit:
            return Refined(self.judge.unjudged("adapted", adapted), self.fit, self.adapt)
        verdict = self.judge.of_texts(generation, adapted, bare, before, self._texts, self.base)
        return Refined(verdict, None, self.adapt if verdict.candidate == "adapted" else None)

    def _fitted(self, adapter: Lora, number: int) -> Lora:
        told = self._told("fitting to the examples", self.fit, number)
        return fit_examples(adapter, self._examples, self.base, self.fit, on_step=told)

    @cached_property
    def _examples(self) -> TaskData:
        assert self.given.evidence.examples is not None
        return prepare_examples(self.given.evidence.examples, self.base, max_length=self.fit.max_length)

    @cached_property
    def _texts(self) -> TaskData:
        assert self.given.texts is not None
        return self.base.prepare(self.given.texts, max_length=self.adapt.fit.max_length)

    @cached_property
    def _bare(self) -> Readout:
        """The texts as the bare base reads them."""
        self.progress("reading the texts", 0, 1)
        read = self.base.read(self._texts)
        self.progress("reading the texts", 1, 1)
        return read

    def _adapted(self, start: Lora, number: int) -> tuple[Readout, Readout, Lora]:
        """The texts as the base and the start read them, and the start after self-training."""
        bare, shares = self._bare, self.given.shares
        adapted = self_train(
            start,
            self._texts,
            self.base,
            self.adapt,
            labelled=self._examples if self.given.fit else None,
            shares=None if shares is None else torch.tensor(shares),
            on_step=self._told("adapting to the texts", self.adapt.fit, number),
        )
        return bare, adapted.before, adapted.lora

    def _told(self, stage: str, recipe: FewShotRecipe, number: int) -> Callable[[int], None]:
        total = self.samples * recipe.steps
        return lambda step: self.progress(stage, number * recipe.steps + step, total)
