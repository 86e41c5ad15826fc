"""Which rule goes with which source in which split: by hashes and counts alone, before anything is trained.

`experts` has every family of the shared split `experts` and every rule that is not held out at least three times.
`validation` has known rules on tasks of the shared `validation`, and rules held out for it on sources the experts
know; `test_rule` the rules held out for tests on families the experts know; `test_family` known rules, `test_both`
those held-out rules, on families of the shared `test_far` that stand nowhere else. No result had a part in it: what is
held out was set down when the rules were, one or two of most groups.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, final

from shape_cases import Source
from shape_rules import RULES

SEED: Final = 0
HELD_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "validation": ("symbol", "brackets", "italian", "second_word"),
    "test": ("french", "hyphens", "assignment", "ranking", "is_not", "last_two"),
}
"""Rules that no expert is trained on."""
KNOWN: Final = tuple(name for name in RULES if not any(name in names for names in HELD_OUT.values()))
TIMES: Final = 3
"""Experts of each known rule."""
MORE: Final = (
    "word",
    "letter",
    "number",
    "json",
    "json_flag",
    "tag",
    "sentence",
    "opposite",
    "is",
    "first_word",
    "reason",
)
"""Rules with one expert more."""
AGAIN: Final = ("letter", "number", "json", "is")
"""Rules with one expert more of a source that has the rule already: another code, key or label of the same texts."""


@final
@dataclass(frozen=True)
class Plan:
    """One task to be made."""

    split: str
    source: str
    rule: str
    variant: int = 1

    @property
    def id(self) -> str:
        """Name of the task."""
        ending = "" if self.variant == 1 else f"-{self.variant}"
        return f"{self.source}-{self.rule}{ending}".replace("_", "-")


@final
@dataclass(frozen=True)
class Chooser:
    """Sources of one split with their families, and how often each family and source was taken."""

    sources: Mapping[str, Source]
    families: Mapping[str, str]
    taken: Counter[str] = field(default_factory=Counter)
    """By family, by source, and by rule and family."""

    def next(self, rule: str) -> str | None:
        """The source for a rule: of the family that was taken least, and there one that was; `None` if none is left."""
        found = [
            name
            for name, source in self.sources.items()
            if RULES[rule].fits(source) and not self.taken[f"{rule} of {self.families[name]}"]
        ]

        def order(name: str) -> tuple[int, int, str]:
            return self.taken[self.families[name]], -self.taken[name], hashed(f"{rule} {name}")

        chosen = min(found, key=order, default=None)
        if chosen is not None:
            self.take(rule, chosen)
        return chosen

    def take(self, rule: str, source: str) -> None:
        """Count a source."""
        family = self.families[source]
        self.taken.update((family, source, f"{rule} of {family}"))


def hashed(text: str) -> str:
    """A number that nobody chose."""
    return hashlib.sha256(f"{SEED} {text}".encode()).hexdigest()


def plans(by_split: Mapping[str, Mapping[str, Source]], families: Mapping[str, str]) -> tuple[Plan, ...]:
    """All tasks, split by split.

    Args:
        by_split: sources by their shared split and id.
        families: of each source.
    """
    experts = _experts(by_split["experts"], families)
    used = {plan.source for plan in experts}
    known = {name: source for name, source in by_split["experts"].items() if name in used}
    far = by_split["test_far"]
    unseen = Chooser(known, families)
    near = Chooser(by_split["test_near"], families)
    both = _spread("test_both", HELD_OUT["test"], far, families, 8)
    return (
        *experts,
        *_one_a_source("validation", by_split["validation"], families),
        *_each("validation", HELD_OUT["validation"], unseen),
        *_each("test_rule", HELD_OUT["test"], unseen),
        *_each("test_rule", HELD_OUT["test"], near, otherwise=unseen),
        *_one_a_source("test_family", far, families),
        *both,
    )


def _experts(sources: Mapping[str, Source], families: Mapping[str, str]) -> list[Plan]:
    chooser = Chooser(sources, families)
    rarest = sorted(KNOWN, key=lambda rule: (sum(map(RULES[rule].fits, sources.values())), rule))
    found: list[Plan] = []
    for rule in rarest:
        chosen = [source for _ in range(TIMES + (rule in MORE)) if (source := chooser.next(rule)) is not None]
        found += [Plan("experts", source, rule) for source in chosen]
        if rule in AGAIN:
            found.append(Plan("experts", chosen[0], rule, 2))
            chooser.take(rule, chosen[0])
    return sorted(found, key=_place)


def _place(plan: Plan) -> tuple[int, str, int]:
    return KNOWN.index(plan.rule), plan.source, plan.variant


def _each(split: str, rules: Iterable[str], chooser: Chooser, otherwise: Chooser | None = None) -> list[Plan]:
    """One task a rule."""
    chosen = [(rule, chooser.next(rule) or (otherwise.next(rule) if otherwise else None)) for rule in rules]
    return [Plan(split, source, rule) for rule, source in chosen if source is not None]


def _one_a_source(split: str, sources: Mapping[str, Source], families: Mapping[str, str]) -> list[Plan]:
    """One task a family, of a known rule; a rule comes twice only where every other one that fits was taken."""
    taken: Counter[str] = Counter()
    found = []
    for family in sorted({families[name] for name in sources}, key=hashed):
        own = min((name for name in sources if families[name] == family), key=lambda name: hashed(f"{split} {name}"))
        fitting = [rule for rule in KNOWN if RULES[rule].fits(sources[own])]
        rule = min(fitting, key=lambda one: (taken[one], taken[f"group {RULES[one].group}"], hashed(f"{own} {one}")))
        taken.update((rule, f"group {RULES[rule].group}"))
        found.append(Plan(split, own, rule))
    return found


def _spread(
    split: str, rules: Sequence[str], sources: Mapping[str, Source], families: Mapping[str, str], size: int
) -> list[Plan]:
    """So many tasks, the rules in turn."""
    chooser = Chooser(sources, families)
    return _each(split, [rules[at % len(rules)] for at in range(size)], chooser)
