"""Judges a generator that has forgotten an expert: before, after, and beside one that has never seen it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Self

from loragen.adapters.adapter import Lora
from loragen.conditions.condition import Condition
from loragen.conditions.text_encoder import TextEncoder
from loragen.continual.forget.bounds import merge_of
from loragen.continual.forget.described import Conditions, similarities
from loragen.continual.forget.probe import Ruler, generated, mean_of, membership
from loragen.continual.forget.report import GeneratorReport, Three
from loragen.continual.forget.settings import ForgetSettings
from loragen.generators.base import Generator
from loragen.generators.edits import Edit
from loragen.zoo.expert_index import ExpertIndex
from loragen.zoo.zoo import Zoo

MOST_JUDGED = 24
"""Remaining experts, and experts never seen, that are generated for."""
FEWEST_UNSEEN = 3
"""With fewer experts never seen, merges of others stand for what is generated for such."""


@dataclass(frozen=True, eq=False)
class Made:
    """Adapters that one generator gives, by expert."""

    forgotten: list[Lora]
    remaining: Mapping[str, list[Lora]]
    unseen: Mapping[str, list[Lora]]


@dataclass(frozen=True, eq=False)
class Judge:
    """What generators are asked for, and the experts that answers are compared with."""

    expert: str
    ruler: Ruler
    forgotten: Sequence[Condition]
    """The expert's descriptions that took no part in the edit, or all where all did."""
    remaining: Mapping[str, Sequence[Condition]]
    """First description of each remaining expert."""
    unseen: Mapping[str, Sequence[Condition]]
    """The same of experts that the generator has never seen; empty where they are too few."""
    merges: Mapping[str, Lora]
    """Of the nearest others of each remaining expert, where there are no experts never seen."""

    @classmethod
    def of(
        cls,
        generator: Generator,
        expert: str,
        experts: Zoo,
        unseen: Sequence[str],
        encoder: TextEncoder,
        settings: ForgetSettings,
    ) -> Self:
        """Read what is asked.

        Args:
            generator: any state of the one that is judged: all read conditions alike.
            expert: to forget.
            experts: those that it knows, this one among them.
            unseen: ids of others of the zoo, which it has never seen.
            encoder: of descriptions.
            settings: of the edit.
        """
        zoo = Zoo.open(experts.root)
        index = ExpertIndex.of(experts, encoder)
        others = _spread([name for name in experts.ids if name != expert])
        strange = _spread(unseen) if len(unseen) >= FEWEST_UNSEEN else []
        read = Conditions(generator, zoo, encoder)
        own = read.of(expert)
        adapters = {name: zoo.adapter(name) for name in (expert, *others, *strange)}
        merges = {}
        for name in () if strange else others:
            near = similarities(name, experts, index, encoder)
            merges[name] = merge_of({n: s for n, s in near.items() if n != expert}, experts, settings)
        return cls(
            expert,
            Ruler(adapters, mean_of([adapters[name] for name in (expert, *others)])),
            own[max(1, len(own) - settings.spared) :] or own,
            {name: read.of(name)[:1] for name in others},
            {name: read.of(name)[:1] for name in strange},
            merges,
        )

    def made_by(self, generator: Generator) -> Made:
        """What a generator gives for all that is asked."""
        return Made(
            generated(generator, self.forgotten),
            {name: generated(generator, asked) for name, asked in self.remaining.items()},
            {name: generated(generator, asked) for name, asked in self.unseen.items()},
        )

    def unlisted(self, generator: Generator) -> float:
        """Mean error of what a generator gives for the expert's descriptions."""
        return mean(self.ruler.errors(self.expert, generated(generator, self.forgotten)))

    def report(
        self, name: str, edit: Edit, bound: float, unlisted: float, before: Made, after: Made, gold: Made | None
    ) -> GeneratorReport:
        """The report of one generator, without the file of its edit."""
        states = [each for each in (before, after, gold) if each is not None]
        has_probe = bool(self.unseen or self.merges)
        return GeneratorReport(
            generator=name,
            edit=None,
            layers=len(edit.facts.layers),
            zero=edit.facts.zero,
            bound=round(bound, 4),
            forgotten=_three([self._errors(each) for each in states]),
            unlisted=round(unlisted, 4),
            remaining=_three([self._remaining(each) for each in states]),
            membership=_three([self._membership(each) for each in states]) if has_probe else None,
            unseen=len(self.unseen or self.merges),
            to_gold=None if gold is None else _three([self._apart(each, gold) for each in (before, after)]),
            remaining_to_gold=None
            if gold is None
            else _three([self._remaining_apart(each, gold) for each in (before, after)]),
        )

    def figures(self, made: Made, gold: Made) -> dict[str, float]:
        """Figures of one state of the generator: errors, the probe, and distances from the gold standard."""
        return {
            "forgotten": self._errors(made),
            "remaining": self._remaining(made),
            "membership": self._membership(made),
            "to_gold": self._apart(made, gold),
            "remaining_to_gold": self._remaining_apart(made, gold),
        }

    def _errors(self, made: Made) -> float:
        return mean(self.ruler.errors(self.expert, made.forgotten))

    def _remaining(self, made: Made) -> float:
        return mean(error for name, some in made.remaining.items() for error in self.ruler.errors(name, some))

    def _membership(self, made: Made) -> float:
        unseen = [error for name, some in made.unseen.items() for error in self.ruler.errors(name, some)]
        return membership(self.ruler.errors(self.expert, made.forgotten), unseen or self._of_merges)

    @cached_property
    def _of_merges(self) -> list[float]:
        return [error for name, merge in self.merges.items() for error in self.ruler.errors(name, [merge])]

    def _apart(self, made: Made, gold: Made) -> float:
        return self.ruler.apart(self.expert, made.forgotten, gold.forgotten)

    def _remaining_apart(self, made: Made, gold: Made) -> float:
        return mean(self.ruler.apart(name, some, gold.remaining[name]) for name, some in made.remaining.items())


def _three(values: Sequence[float]) -> Three:
    return Three(*(round(value, 4) for value in values))


def _spread(names: Sequence[str]) -> list[str]:
    """At most `MOST_JUDGED` of some names, evenly spread."""
    step = max(1, -(-len(names) // MOST_JUDGED))
    return list(names)[::step]
