"""Evidence in, adapters out: the one chain from a zoo to generated adapters, which all callers share.

`Pipeline` holds a zoo, a text encoder and a generator; `generate` makes a finished `Adapter`, fitted to labelled
examples where that is asked for.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Conditioner, Evidence
from loragen.conditions.text_encoder import TextEncoder
from loragen.errors import AdapterError, ConfigError, GeneratorError, shown
from loragen.exporters.card import GeneratedCard, card_of
from loragen.generators.base import Generation, Generator
from loragen.generators.registry import DEFAULT, open_generator, reading
from loragen.inference import Adapter
from loragen.progress import Progress, silent
from loragen.recipes.few_shot import FewShotRecipe
from loragen.recipes.few_shot_fits import Fit, fit_all
from loragen.tasks.examples import Examples
from loragen.training.threads import one_thread
from loragen.values import checked_seed
from loragen.zoo.zoo import Zoo, default_zoo

MOST_SAMPLES = 10_000
"""Adapters that are drawn at once."""
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

    @classmethod
    def open(
        cls,
        name: str = DEFAULT,
        zoo: Zoo | Path | str | None = None,
        encoder: TextEncoder | str = ENCODER,
        *,
        licences: Collection[str] | None = None,
        top_k: int | None = None,
    ) -> "Pipeline":
        """Open a generator.

        Args:
            name: of a generator, or its folder.
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
        text_encoder = TextEncoder.load(encoder) if isinstance(encoder, str) else encoder
        with one_thread():
            generator = open_generator(name, opened, text_encoder, licences=licences, top_k=top_k)
        return cls(name, opened, text_encoder, generator)

    @cached_property
    def _conditioner(self) -> Conditioner:
        return Conditioner(self.encoder, self.generator.reading, self.generator.evidence)

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
            condition = self._conditioner.condition(evidence)
            return self.generator.generate(condition, rng=rng, num_samples=samples)

    def fit(
        self,
        generations: Sequence[Generation],
        examples: Examples,
        recipe: FewShotRecipe,
        *,
        keep: int | None = None,
        progress: Progress = silent,
    ) -> list[Fit]:
        """Fit generated adapters to labelled examples of the task, through the base.

        Args:
            generations: where the fits begin.
            examples: of the task.
            recipe: settings of the fit; where the examples are enough, its length and strength are chosen by them.
            keep: fit only so many, those with the least loss on the examples.
            progress: called with the stage, the steps done and their total.

        Raises:
            TaskError: the examples have no labels, or those of one class alone.
            ConfigError: the base is not at hand, or has other weights than the zoo was trained on.
        """
        adapters = [one.adapter for one in generations]
        return fit_all(adapters, examples, self.zoo.load_base(), recipe, keep=keep, progress=progress)


def generate_samples(
    description: str,
    *,
    labels: Sequence[str] | None = None,
    examples: Examples | Path | str | None = None,
    fit: bool = False,
    best_of: int | None = None,
    generator: str = DEFAULT,
    zoo: Zoo | Path | str | None = None,
    encoder: str = ENCODER,
    samples: int = 1,
    seed: int = 0,
    top_k: int | None = None,
    licences: Collection[str] | None = None,
    own_adapter: Path | str | None = None,
    progress: Progress = silent,
) -> list[Adapter]:
    """Generate several adapters for a task described in words; `generate` returns one.

    Args:
        description: the task, in words.
        labels: names of the task's labels. They are kept with the adapter for `Adapter.classify`; some generators read
            them too.
        examples: a few texts of the task, or a file of them; generators that read them use them, and ``fit`` does.
        fit: then fit the adapter to the examples, which must be labelled. With eight examples of each class or more,
            cross-validation within them chooses how far (`FitChoice` on the card).
        best_of: draw so many adapters and fit only the best of them, those with the least loss on the examples; for
            generators that draw at random.
        generator: name of a generator, or its folder.
        zoo: folder of a zoo; by default the bundled one.
        encoder: text encoder of descriptions.
        samples: number of adapters to draw.
        seed: the same seed gives the same adapters.
        top_k: number of experts to draw on.
        licences: draw on experts of these licences alone.
        own_adapter: folder of an adapter of this very task, for generators that follow a paper in needing one.
        progress: called with the stage, the steps done and their total.

    Raises:
        TaskError: the description, labels or examples cannot be used.
        ZooError: there is no such zoo.
        GeneratorError: there is no such generator, or it cannot use what is given.
        ConfigError: ``fit`` is asked for without examples, or a model is not at hand.
        AdapterError: the adapter would leave its base unchanged, or does not fit it.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise ConfigError(f"{shown(samples)} adapters were asked for; 1 to {MOST_SAMPLES:,} can be drawn at once.")
    checked_seed(seed)
    if fit and examples is None:
        raise ConfigError("Fitting wants labelled examples of the task; give a file of them with --examples.")
    drawn = samples if best_of is None else _checked_best_of(best_of, samples, fit=fit)
    told = Examples.from_file(examples, labels) if isinstance(examples, Path | str) else examples
    if fit and told is not None:
        told = told.checked_for_scores("Examples to fit to" if isinstance(examples, Examples) else str(examples))
    evidence = Evidence(
        description,
        None if labels is None else tuple(labels),
        told,
        None if own_adapter is None else Lora.load(Path(own_adapter)),
    )
    pipeline = Pipeline.open(generator, zoo, encoder, licences=licences, top_k=top_k)
    if told is not None and not fit and not pipeline.reads_examples:
        raise GeneratorError(
            f"The generator {shown(generator)} reads no examples; add --fit to fit its adapter to them, or choose a "
            f"generator that reads them: {reading('examples')}."
        )
    if best_of is not None and not pipeline.generator.is_stochastic:
        raise GeneratorError(
            f"The generator {shown(generator)} draws nothing at random, so its samples are equal; leave --best-of out."
        )
    generations = pipeline.generate(evidence, seed=seed, samples=drawn)
    recipe = FewShotRecipe() if fit else None
    fits = [Fit(sample, one.adapter) for sample, one in enumerate(generations)]
    if recipe is not None:
        assert told is not None
        fits = pipeline.fit(generations, told, recipe, keep=samples, progress=progress)
    told_of = () if told is None else told.notes
    return [
        _finished(
            replace(generations[one.drawn], adapter=one.adapter),
            _card(pipeline, generations[one.drawn], evidence, seed=seed, fit=one, fitted=recipe, best_of=best_of),
            pipeline,
            (*told_of, *one.notes),
        )
        for one in fits
    ]


def _checked_best_of(best_of: int, samples: int, *, fit: bool) -> int:
    if not fit:
        raise ConfigError("The best of several samples is the one that is best on labelled examples; add --fit.")
    if not samples <= best_of <= MOST_SAMPLES:
        raise ConfigError(
            f"The best {samples} of {shown(best_of)} adapters were asked for; draw {samples} to {MOST_SAMPLES:,}."
        )
    return best_of


def generate(
    description: str,
    *,
    labels: Sequence[str] | None = None,
    examples: Examples | Path | str | None = None,
    fit: bool = False,
    best_of: int | None = None,
    generator: str = DEFAULT,
    zoo: Zoo | Path | str | None = None,
    encoder: str = ENCODER,
    seed: int = 0,
    top_k: int | None = None,
    licences: Collection[str] | None = None,
    own_adapter: Path | str | None = None,
    progress: Progress = silent,
) -> Adapter:
    """Generate an adapter for a task described in words.

    Arguments and errors are those of `generate_samples`.
    """
    (adapter,) = generate_samples(
        description,
        labels=labels,
        examples=examples,
        fit=fit,
        best_of=best_of,
        generator=generator,
        zoo=zoo,
        encoder=encoder,
        seed=seed,
        top_k=top_k,
        licences=licences,
        own_adapter=own_adapter,
        progress=progress,
    )
    return adapter


def _card(
    pipeline: Pipeline,
    generation: Generation,
    evidence: Evidence,
    *,
    seed: int,
    fit: Fit,
    fitted: FewShotRecipe | None,
    best_of: int | None,
) -> GeneratedCard:
    examples = evidence.examples
    named = evidence.labels or (examples.label_names if examples is not None else ())
    return card_of(
        generation,
        pipeline.zoo,
        description=evidence.description,
        generator=pipeline.name,
        seed=seed,
        sample=fit.drawn,
        examples=0 if examples is None else len(examples),
        labels=named,
        fitted=fitted,
        choice=fit.choice,
        best_of=best_of,
        encoder=pipeline.encoder.name,
        encoder_hash=pipeline.encoder.fingerprint,
    )


def _finished(generation: Generation, card: GeneratedCard, pipeline: Pipeline, notes: tuple[str, ...]) -> Adapter:
    """A generated adapter that changes its base."""
    lora = generation.adapter
    if lora.norm() == 0:
        raise AdapterError("The generated adapter leaves the base unchanged: all its delta weights are zero.")
    return Adapter.generated(lora, card, (*notes, *_notes(card, pipeline)))


def _notes(card: GeneratedCard, pipeline: Pipeline) -> tuple[str, ...]:
    counted, most = pipeline.encoder.count_tokens([card.description]), pipeline.encoder.max_tokens
    if counted is None or most is None or counted[0] <= most:
        return ()
    return (
        f"The description has {counted[0]} tokens, and {pipeline.encoder.name} reads the first {most} of them; say the "
        "task in fewer words.",
    )
