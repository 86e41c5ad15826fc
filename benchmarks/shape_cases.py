"""What a rule of shape_rules.py is given: a source, and what was drawn for one task."""

from dataclasses import dataclass, field
from random import Random
from typing import final

from shape_words import Evidence

SHORT = 26
"""Words that a list of labels may have."""


@final
@dataclass(frozen=True)
class Source:
    """A labelled task, and how it is spoken of; shape_sources.yaml says what the parts are."""

    id: str
    names: tuple[str, ...]
    text: str
    full: tuple[str, ...]
    brief: tuple[str, ...]
    key: str
    holds: str = ""
    is_pair: bool = False
    is_marked: bool = False
    median: int = 8
    """Words of the text in the middle."""
    common: tuple[int, ...] = ()
    """Labels that are common enough to ask for one of them; all where nothing is said."""

    @property
    def is_short(self) -> bool:
        """True if its labels can be listed in a description."""
        return len(self.names) <= 10 and sum(len(name.split()) for name in self.names) <= SHORT

    @property
    def shown_names(self) -> tuple[str, ...]:
        """Names of its labels in a sentence: in quotes where some have several words."""
        return tuple(f'"{name}"' for name in self.names) if any(" " in name for name in self.names) else self.names


@final
@dataclass(frozen=True)
class Case:
    """A source with what was drawn for one task."""

    source: Source
    letters: tuple[str, ...]
    numbers: tuple[str, ...]
    symbols: tuple[str, ...]
    target: int
    key: str
    flag: str
    initial: str
    sentence: str
    evidence: Evidence = field(default_factory=dict, compare=False)

    @classmethod
    def drawn(cls, source: Source, rng: Random, evidence: Evidence | None = None) -> "Case":
        """Draw everything, whether a rule needs it or not."""
        size = len(source.names)
        ways = (rng.sample("ABCDEFGHIJ"[:size], min(size, 10)), rng.sample("BCDFGHJKLMPQRSTVWXZ", min(size, 19)))
        numbers = (range(1, size + 1), range(10, 10 * size + 1, 10), rng.sample(range(11, 100), size))
        return cls(
            source=source,
            letters=tuple(rng.choice(ways)),
            numbers=tuple(map(str, rng.sample(list(rng.choice(numbers)), size))),
            symbols=tuple(rng.sample("+-*#@=%&$!", min(size, 10))),
            target=rng.choice(source.common or range(size)),
            key=rng.choice((source.key, source.key, "label", "answer", "result")),
            flag=rng.choice(("alert", "flag", "urgent", "check", "ok")),
            initial=rng.choice("abstw"),
            sentence=rng.choice(
                ("The verdict is {}.", "I would say: {}.", "My answer is {} this time.", "It must be {}!")
            ),
            evidence=evidence or {},
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the source's labels."""
        return self.source.names
