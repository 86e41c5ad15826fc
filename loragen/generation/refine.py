"""From a generated adapter to the one that is given out: fitted to examples, adapted to texts, judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch

from loragen.adaptation.self_training import AdaptRecipe, self_train
from loragen.bases.base import Base
from loragen.bases.language_model import with_wording
from loragen.bases.tokenised import Readout, TaskData
from loragen.bases.wording import telling
from loragen.generation.given import Given
from loragen.generation.judge import Judge, Verdict
from loragen.generation.pipeline import Pipeline
from loragen.generators.base import Generation
from loragen.generators.registry import is_told
from loragen.progress import Progress, silent
from loragen.recipes.few_shot import FewShotRecipe, prepare_examples
from loragen.recipes.few_shot_fits import Fit, fit_all
from loragen.tasks.words import is_blank


@dataclass(frozen=True, eq=False)
class Refined:
    """An adapter to give out, and how it came about."""

    drawn: int
    """Number of the generated adapter, counted from 0."""
    generation: Generation
    """What was generated."""
    verdict: Verdict
    """What is given out."""
    fit: Fit | None = None
    """Its fit to labelled examples, if there was one."""
    fitted: FewShotRecipe | None = None
    """Settings of that."""
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
    def loaded(self) -> Base:
        """The zoo's base, loaded when texts or examples are to be read through it."""
        return self.pipeline.zoo.load_base()

    @property
    def is_told(self) -> bool:
        """True if the description stands in the prompts."""
        return is_told(self.pipeline.generator) and not is_blank(self.given.evidence.description)

    @cached_property
    def base(self) -> Base:
        """The same, which is told the task where the adapters want that."""
        wording, description = self.pipeline.zoo.manifest.recipe.wording, self.given.evidence.description
        return with_wording(self.loaded, telling(wording, description) if self.is_told else wording)

    @cached_property
    def judge(self) -> Judge:
        """What knows the gains of this pipeline's adapters."""
        evidence, labels = self.given.evidence, self.given.label_names
        return Judge.of(self.pipeline, evidence.description, labels, fallback=self.fallback, history=evidence.history)

    def refine(self, generations: Sequence[Generation]) -> list[Refined]:
        """Refine generated adapters, all of them or the best on the examples.

        Raises:
            TaskError: the examples have no labels, or those of one class alone.
            ConfigError: the base is not at hand, or has other weights than the zoo was trained on.
            GeneratorError: no adapter can be expected to gain anything, and ``fallback`` is set.
        """
        if self.given.texts is None and not self.given.fit:
            return [Refined(number, one, self.judge.of_description(one)) for number, one in enumerate(generations)]
        if self.judge.start_instead is not None:
            generations = [self.judge.start_instead] * len(generations)
        if not self.given.fit:
            return [self._adapted(Fit(number, one.adapter), one) for number, one in enumerate(generations)]
        fits = self._fits(generations)
        if self.given.texts is not None:
            return [self._adapted(one, generations[one.drawn]) for one in fits]
        return [
            Refined(one.drawn, generations[one.drawn], self.judge.unjudged("generated", one.adapter), one, self.fit)
            for one in fits
        ]

    def _fits(self, generations: Sequence[Generation]) -> list[Fit]:
        examples = self.given.evidence.examples
        assert examples is not None
        adapters = [one.adapter for one in generations]
        return fit_all(adapters, examples, self.base, self.fit, keep=self.samples, progress=self.progress)

    @cached_property
    def _examples(self) -> TaskData | None:
        """The labelled examples, where the adapters are fitted to them."""
        examples = self.given.evidence.examples
        if not self.given.fit or examples is None:
            return None
        return prepare_examples(examples, self.base, max_length=self.adapt.fit.max_length)

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

    def _adapted(self, fit: Fit, generation: Generation) -> Refined:
        """An adapter after self-training on the texts, and on the examples where there are such."""
        is_judged, shares = self.judge.expects and not self.given.fit, self.given.shares
        bare = self._bare if is_judged else None
        made = self_train(
            fit.adapter,
            self._texts,
            self.base,
            self.adapt,
            labelled=self._examples,
            shares=None if shares is None else torch.tensor(shares),
            on_step=self._told(fit.drawn),
        )
        if bare is None:
            verdict, fitted = self.judge.unjudged("adapted", made.lora), self.fit if self.given.fit else None
            return Refined(fit.drawn, generation, verdict, fit if fitted else None, fitted, self.adapt)
        verdict = self.judge.of_texts(generation, made.lora, bare, made.before, made.guess)
        return Refined(fit.drawn, generation, verdict, adapted=self.adapt if verdict.candidate == "adapted" else None)

    def _told(self, number: int) -> Callable[[int], None]:
        steps = self.adapt.fit.steps
        done, total = min(number, self.samples - 1) * steps, self.samples * steps
        return lambda step: self.progress("adapting to the texts", done + step, total)
