"""Judges adapters before anyone has labels; gives out a safer one where a generator's is expected to gain nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from loragen.adaptation.pseudo_labels import PseudoLabels
from loragen.adapters.adapter import Lora
from loragen.bases.tokenised import Readout
from loragen.conditions.condition import Evidence
from loragen.conditions.history import History
from loragen.confidence.confidence import Candidate, Confidence
from loragen.confidence.expected import ExpectedGain, Knowledge
from loragen.confidence.figures import Figures, of_description, of_labels, of_texts
from loragen.confidence.outlook import Outlook
from loragen.confidence.words import says_nothing
from loragen.errors import GeneratorError
from loragen.generation.pipeline import Pipeline
from loragen.generators.base import Generation

NO_WORD = "the text encoder knows no word of the description"
NAMES: dict[Candidate, str] = {
    "generated": "the generator's adapter",
    "shared": "the zoo's one adapter for all tasks",
    "adapted": "the adapter adapted to the texts",
}


@dataclass(frozen=True, eq=False)
class Verdict:
    """An adapter to give out, and what to expect of it."""

    candidate: Candidate
    adapter: Lora
    outlook: Outlook


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges the adapters that one pipeline makes for one task."""

    pipeline: Pipeline
    description: str
    labels: tuple[str, ...]
    """Empty where they are not known."""
    fallback: bool
    confidence: Confidence | None
    """`None` where no models were fitted for this generator and zoo, and where there is a history: they were fitted
    for adapters from descriptions."""
    history: History | None = None
    """Past texts of the person that the adapters are for."""

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        description: str,
        labels: tuple[str, ...],
        *,
        fallback: bool,
        history: History | None = None,
    ) -> Self:
        """The judge of a pipeline, with the models that its zoo holds.

        Raises:
            ConfigError: their file is damaged.
        """
        confidence = pipeline.confidence if history is None else None
        return cls(pipeline, description, labels, fallback, confidence, history)

    @property
    def shared(self) -> Lora | None:
        """The zoo's one adapter for all tasks, where it has one."""
        return self.pipeline.shared

    @property
    def safer(self) -> Lora | None:
        """The same where it may take a generated adapter's place: it was trained on tasks of all licences."""
        return self.shared if self.fallback and not self.pipeline.is_restricted else None

    @cached_property
    def says_nothing(self) -> bool:
        """True if no word of the description is known to the encoder, and no expert near to it."""
        return says_nothing(self.description, self._similarity, self.pipeline.encoder)

    @cached_property
    def _merge(self) -> Generation:
        """The merge of the nearest experts."""
        return self.pipeline.nearest.generate(Evidence(self.description))[0]

    def of_all(self) -> Generation:
        """The zoo's one adapter for all tasks, with all experts as those behind it."""
        assert self.shared is not None
        every = Pipeline.open("mean", self.pipeline.zoo, self.pipeline.encoder)
        return replace(every.generate(Evidence(self.description))[0], adapter=self.shared)

    @cached_property
    def start_instead(self) -> Generation | None:
        """What to begin at in place of what was generated, where the description says nothing."""
        is_told = self.safer is None or self.history is not None or not self.says_nothing
        return None if is_told else self.of_all()

    @cached_property
    def _similarity(self) -> float:
        return self.pipeline.similarity(Evidence(self.description, history=self.history))

    @property
    def _knows(self) -> Knowledge:
        return "labels" if self.labels else "description"

    @property
    def expects(self) -> bool:
        """True if there are models of this generator's gains, and what their figures are read against."""
        return self.confidence is not None and self.shared is not None

    def unjudged(self, candidate: Candidate, adapter: Lora) -> Verdict:
        """An adapter of which nothing is known but how near its task is."""
        return Verdict(candidate, adapter, self._outlook())

    def _outlook(self, **facts: Any) -> Outlook:
        reason = None if self.start_instead is None else NO_WORD
        coverage = None if self.history is not None else self.pipeline.coverage(self.description)
        common = {"similarity": round(self._similarity, 4), "coverage": coverage, "instead": reason}
        return Outlook(**common | facts)

    def of_description(self, generation: Generation) -> Verdict:
        """Judge a generated adapter by the description, and by the names of the labels where they are given.

        Raises:
            GeneratorError: no adapter can be expected to gain anything, and ``fallback`` is set.
        """
        if self.start_instead is not None:
            return self.unjudged("shared", self.start_instead.adapter)
        if self.confidence is None or self.shared is None:
            return self.unjudged("generated", generation.adapter)
        figures, knows = self._figures(generation), self._knows
        candidates: dict[Candidate, Lora] = {"generated": generation.adapter}
        if self.safer is not None:
            candidates["shared"] = self.safer
        expected = {name: self.confidence.expect(name, figures, knows) for name in candidates}
        own = expected["generated"]
        best: Candidate = "generated" if own is None or own.gain > 0 else _best(expected)
        return self._given_out(best, "generated", candidates, expected, figures)

    def of_texts(
        self, generation: Generation, adapted: Lora, bare: Readout, before: Readout, guess: PseudoLabels
    ) -> Verdict:
        """Judge a generated adapter after self-training by a task's unlabelled texts.

        Args:
            generation: the adapter that self-training began at.
            adapted: the adapter after it.
            bare: the texts as the bare base reads them.
            before: the texts under the generated adapter.
            guess: their pseudo-labels.

        Raises:
            GeneratorError: no adapter can be expected to gain anything, and ``fallback`` is set.
        """
        assert self.confidence is not None
        told = self._figures(generation)
        candidates: dict[Candidate, Lora] = {"adapted": adapted}
        expected: dict[Candidate, ExpectedGain | None] = {}
        expected["adapted"] = self.confidence.expect("adapted", told | of_texts(bare, before, guess), "texts")
        if self.safer is not None:
            candidates["shared"] = self.safer
            expected["shared"] = self.confidence.expect("shared", told, self._knows)
        own = expected["adapted"]
        best: Candidate = "adapted" if own is None or own.gain > 0 else _best(expected)
        return self._given_out(best, "adapted", candidates, expected, told)

    def _figures(self, generation: Generation) -> Figures:
        assert self.shared is not None
        told = of_description(generation.adapter, generation.neighbours, merge=self._merge.adapter, shared=self.shared)
        return told | (of_labels(self.labels, self.description, self.pipeline.encoder) if self.labels else {})

    def _given_out(
        self,
        best: Candidate,
        wanted: Candidate,
        candidates: Mapping[Candidate, Lora],
        expected: Mapping[Candidate, ExpectedGain | None],
        figures: Figures,
    ) -> Verdict:
        if not self.fallback:
            best = wanted
        gain, own = expected[best], expected[wanted]
        if self.fallback and gain is not None and gain.gain <= 0:
            raise GeneratorError(
                f"No adapter is given out: the best that the zoo has for this task is expected to change the base's "
                f"accuracy by {gain.gain:+.2f} ({gain.low:+.2f} to {gain.high:+.2f}). Say the task in other words, "
                "give labelled --examples with --fit, or take the adapter as it is with --no-fallback."
            )
        facts: dict[str, Any] = {}
        if best != wanted and gain is not None and own is not None:
            facts["instead"] = f"it is expected to gain {gain.gain:+.2f}, {NAMES[wanted]} {own.gain:+.2f}"
        agreement = round(figures["agrees with the merge"], 4)
        return Verdict(best, candidates[best], self._outlook(agreement=agreement, expected=gain, **facts))


def _best(expected: Mapping[Candidate, ExpectedGain | None]) -> Candidate:
    """The candidate that is expected to gain most, the first of those that gain alike."""
    return max(expected, key=lambda name: -2.0 if (one := expected[name]) is None else one.gain)
