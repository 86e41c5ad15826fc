"""Evidence in, finished adapters out: what `loragen.generate` does."""

from collections.abc import Collection, Sequence
from pathlib import Path

from loragen.errors import AdapterError, ConfigError, GeneratorError, shown
from loragen.exporters.card import GeneratedCard, HistoryUse, card_of
from loragen.generation.given import Given
from loragen.generation.pipeline import ENCODER, MOST_SAMPLES, Pipeline
from loragen.generation.refine import Refined, Refiner
from loragen.generators.registry import forgotten_by, reading
from loragen.inference import Adapter
from loragen.progress import Progress, silent
from loragen.recipes.few_shot_settings import FewShotRecipe
from loragen.tasks.examples import Examples
from loragen.values import checked_seed
from loragen.zoo.zoo import Zoo

SHARED = "multi-task"
"""Generator on the card of the zoo's one adapter for all tasks, where that is given out."""


def generate_samples(
    description: str,
    *,
    labels: Sequence[str] | None = None,
    texts: Examples | Sequence[str] | Path | None = None,
    shares: Sequence[float] | None = None,
    examples: Examples | Path | str | None = None,
    fit: bool = False,
    best_of: int | None = None,
    clip_rows: float | None = None,
    fallback: bool = True,
    generator: str | None = None,
    zoo: Zoo | Path | str | None = None,
    encoder: str = ENCODER,
    samples: int = 1,
    seed: int = 0,
    top_k: int | None = None,
    licences: Collection[str] | None = None,
    own_adapter: Path | str | None = None,
    history: Examples | Sequence[str] | Path | None = None,
    progress: Progress = silent,
) -> list[Adapter]:
    """Generate several adapters for a task described in words; `generate` returns one.

    Args:
        description: the task, in words.
        labels: names of the task's labels. They are kept with the adapter for `Adapter.classify`; some generators read
            them too.
        texts: texts of the task that nobody has labelled, 50 to 10,000, or a file of them: the adapter is adapted to
            them. Wants ``labels``.
        shares: how large the classes are among the texts, one number a label, if you know it.
        examples: a few texts of the task, or a file of them; generators that read them use them, and ``fit`` does.
        fit: then fit the adapter to the examples, which must be labelled. With eight examples of each class or more,
            cross-validation within them chooses how far (`FitChoice` on the card).
        best_of: draw so many adapters and fit only the best of them, those with the least loss on the examples; for
            generators that draw at random.
        clip_rows: let no row of the update become longer in the fit than so many times the mean row of the adapter that
            it begins at.
        fallback: where the adapter is expected to gain nothing, give out a safer one, or none.
        generator: name of a generator, or its folder; by default sg or, on a zoo without it, the one trained there.
        zoo: folder of a zoo; by default the bundled one.
        encoder: text encoder of descriptions.
        samples: number of adapters to draw.
        seed: the same seed gives the same adapters.
        top_k: number of experts to draw on.
        licences: draw on experts of these licences alone.
        own_adapter: folder of an adapter of this very task, for generators that follow a paper in needing one.
        history: past texts of the person that the adapter is for, 1 to 5,000, or a file of them, with labels or
            without; with them the description may be empty, no gain is foretold, and ``fallback`` has no effect.
        progress: called with the stage, the steps done and their total.

    Raises:
        TaskError: the description, labels, texts or examples cannot be used.
        ZooError: there is no such zoo.
        GeneratorError: there is no such generator, it cannot use what is given, or no adapter can be expected to gain
            anything while ``fallback`` is set.
        ConfigError: ``fit`` is asked for without examples, ``texts`` without labels, or a model is not at hand.
        AdapterError: the adapter would leave its base unchanged, or does not fit it.
    """
    if not 1 <= samples <= MOST_SAMPLES:
        raise ConfigError(f"{shown(samples)} adapters were asked for; 1 to {MOST_SAMPLES:,} can be drawn at once.")
    checked_seed(seed)
    recipe = FewShotRecipe() if clip_rows is None else _clipping(clip_rows, fit=fit)
    drawn = samples if best_of is None else _checked_best_of(best_of, samples, fit=fit)
    given = Given.read(
        description,
        labels=labels,
        examples=examples,
        fit=fit,
        texts=texts,
        shares=shares,
        own_adapter=own_adapter,
        history=history,
    )
    pipeline = Pipeline.open(generator, zoo, encoder, licences=licences, top_k=top_k)
    if best_of is not None and not pipeline.generator.is_stochastic:
        raise GeneratorError(
            f"The generator {shown(pipeline.name)} draws nothing at random, and its samples are equal; leave --best-of "
            "out."
        )
    refiner = Refiner(pipeline, given, fallback, fit=recipe, samples=samples, progress=progress)
    return generated(refiner, seed=seed, drawn=drawn, best_of=best_of)


def generated(refiner: Refiner, *, seed: int, drawn: int, best_of: int | None = None) -> list[Adapter]:
    """The adapters of a refiner's pipeline for what is given.

    Args:
        refiner: pipeline and evidence; it may bring a base that is loaded.
        seed: the same seed gives the same adapters.
        drawn: number of adapters to draw.
        best_of: the same number, where the best of them are kept.

    Raises:
        GeneratorError: the generator cannot use what is given, or no adapter can be expected to gain anything.
    """
    pipeline, given = refiner.pipeline, refiner.given
    if given.evidence.examples is not None and not given.fit and not pipeline.reads_examples:
        raise GeneratorError(
            f"The generator {shown(pipeline.name)} reads no examples; add --fit to fit its adapter to them, or choose "
            f"a generator that reads them: {reading('examples')}."
        )
    refined = refiner.refine(pipeline.generate(given.evidence, seed=seed, samples=drawn))
    return [_finished(refiner, one, seed=seed, best_of=best_of) for one in refined]


def _clipping(clip_rows: float, *, fit: bool) -> FewShotRecipe:
    if not fit:
        raise ConfigError(
            "Rows are clipped while an adapter is fitted to examples; add --fit, or leave --clip-rows out."
        )
    if not 0 < clip_rows < float("inf"):
        raise ConfigError(
            f"Rows were to be clipped at {shown(clip_rows)} times their mean; a number above 0 was wanted."
        )
    return FewShotRecipe(clip_rows=clip_rows)


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
    texts: Examples | Sequence[str] | Path | None = None,
    shares: Sequence[float] | None = None,
    examples: Examples | Path | str | None = None,
    fit: bool = False,
    best_of: int | None = None,
    clip_rows: float | None = None,
    fallback: bool = True,
    generator: str | None = None,
    zoo: Zoo | Path | str | None = None,
    encoder: str = ENCODER,
    seed: int = 0,
    top_k: int | None = None,
    licences: Collection[str] | None = None,
    own_adapter: Path | str | None = None,
    history: Examples | Sequence[str] | Path | None = None,
    progress: Progress = silent,
) -> Adapter:
    """Generate an adapter for a task described in words.

    Arguments and errors are those of `generate_samples`.
    """
    (adapter,) = generate_samples(
        description,
        labels=labels,
        texts=texts,
        shares=shares,
        examples=examples,
        fit=fit,
        best_of=best_of,
        clip_rows=clip_rows,
        fallback=fallback,
        generator=generator,
        zoo=zoo,
        encoder=encoder,
        seed=seed,
        top_k=top_k,
        licences=licences,
        own_adapter=own_adapter,
        history=history,
        progress=progress,
    )
    return adapter


def _finished(refiner: Refiner, refined: Refined, *, seed: int, best_of: int | None) -> Adapter:
    """A generated adapter that changes its base, with its card."""
    pipeline, given, verdict, fit = refiner.pipeline, refiner.given, refined.verdict, refined.fit
    if verdict.adapter.norm() == 0:
        raise AdapterError("The generated adapter leaves the base unchanged: all its delta weights are zero.")
    examples, history = given.evidence.examples, given.evidence.history
    is_shared = verdict.candidate == "shared" or refined.generation is refiner.judge.start_instead
    card = card_of(
        refiner.judge.of_all() if is_shared else refined.generation,
        pipeline.zoo,
        description=given.evidence.description,
        generator=SHARED if is_shared else pipeline.name,
        seed=seed,
        sample=refined.drawn,
        examples=0 if examples is None else len(examples),
        labels=given.label_names,
        fitted=refined.fitted,
        choice=None if fit is None else fit.choice,
        best_of=best_of,
        texts=0 if given.texts is None else len(given.texts),
        adapted=refined.adapted,
        outlook=verdict.outlook,
        history=None if history is None else pipeline.use_of(history),
        edits=tuple(forgotten_by(pipeline.generator)),
        told=refiner.is_told and not is_shared,
        encoder=pipeline.encoder.name,
        encoder_hash=pipeline.encoder.fingerprint,
        behind=None if is_shared or pipeline.behind is None else pipeline.behind.on_card(),
    )
    notes = (*given.notes, *(() if fit is None else fit.notes), *_notes(card, pipeline))
    return Adapter.generated(verdict.adapter, card, notes)


def _notes(card: GeneratedCard, pipeline: Pipeline) -> tuple[str, ...]:
    notes = () if card.history is None else _history_notes(card.history)
    if card.behind is not None and pipeline.behind is not None:
        notes = (pipeline.behind.sentence(pipeline.name, str(pipeline.config_of_generator())), *notes)
    counted, most = pipeline.encoder.count_tokens([card.description]), pipeline.encoder.max_tokens
    if counted is None or most is None or counted[0] <= most:
        return notes
    return (
        *notes,
        f"The description has {counted[0]} tokens, and {pipeline.encoder.name} reads the first {most} of them; say the "
        "task in fewer words.",
    )


def _history_notes(use: HistoryUse) -> tuple[str, ...]:
    untrained = (
        "There is no trained pool of histories beside the generator, so this one was pooled by its plain mean; to "
        "train one: loragen train configs/train/history.yaml."
    )
    unforetold = "What an adapter from a history gains is not foretold; judge it with loragen evaluate."
    return unforetold, *(() if use.pool == "trained" else (untrained,))
