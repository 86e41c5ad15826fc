"""Rules that make tasks of another shape from a labelled task: what is answered, and how a user asks for that.

A rule is a row of `RULES`. A closed one gives an answer for each label; an open one writes an answer from the text and
the label. Which letters, key, label or form it takes is drawn for each task, and stands in its descriptions.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

from shape_cases import Case, Source
from shape_phrases import PHRASES
from shape_words import LANGUAGES, TRANSLATIONS, listed, telling_word, words

COUNTED = (3, 9)
"""Median words of texts whose words are worth counting."""


@final
@dataclass(frozen=True)
class Rule:
    """A shape of answers."""

    name: str
    group: str
    phrases: tuple[str, str, str, str]
    """How to answer, in four ways; those of a rule that judges nothing say the whole task."""
    fits: Callable[[Source], bool]
    answers: Callable[[Case], tuple[str, ...]] | None = None
    """Closed: an answer for each label."""
    written: Callable[[Case, str, int], str | None] | None = None
    """Open: an answer to a text with a label; `None` where the text has none."""
    judges: bool = True
    """True if the question of the source comes before the phrase."""
    possible: tuple[str, ...] = ()
    """Answers of a rule that are few though it reads them from the text."""

    def answer(self, case: Case, text: str, label: int) -> str | None:
        """What is to be answered."""
        if self.answers is not None:
            return self.answers(case)[label]
        assert self.written is not None
        return self.written(case, text, label)

    def labels(self, case: Case) -> tuple[str, ...]:
        """All answers of a closed task, in order; none for an open one."""
        return self.possible if self.answers is None else tuple(dict.fromkeys(self.answers(case)))

    def fields(self, case: Case) -> dict[str, str]:
        """What stands in for the names in braces."""
        source, made = case.source, () if self.answers is None else self.answers(case)
        pairs = [f"{answer} for {name}" for answer, name in zip(made, source.shown_names, strict=False)]
        target = source.names[case.target]
        return {
            "names": listed(source.shown_names),
            "both": listed(source.shown_names, "and"),
            "order": ", ".join(source.shown_names),
            "first": source.shown_names[0],
            "final": source.shown_names[-1],
            "answers": listed(tuple(dict.fromkeys(made)) or ("",)),
            "pairs": listed(pairs or [""], "and"),
            "example": made[-1] if made else "",
            "target": source.shown_names[case.target],
            "holds": source.holds.replace("{}", target),
            **{"text": source.text, "key": case.key, "flag": case.flag, "letter": case.initial},
            "form": case.sentence.format("___"),
        }


def _one_each(make: Callable[[str], str]) -> Callable[[Case], tuple[str, ...]]:
    return lambda case: tuple(make(name) for name in case.names)


def _yes_where(told: str, otherwise: str) -> Callable[[Case], tuple[str, ...]]:
    return lambda case: tuple(told if at == case.target else otherwise for at in range(len(case.names)))


def _json(**values: object) -> str:
    return json.dumps(values, ensure_ascii=False)


def _json_answers(case: Case) -> tuple[str, ...]:
    return tuple(_json(**{case.key: name}) for name in case.names)


def _flag_answers(case: Case) -> tuple[str, ...]:
    return tuple(_json(**{case.key: name, case.flag: at == case.target}) for at, name in enumerate(case.names))


def _next_answers(case: Case) -> tuple[str, ...]:
    return (*case.names[1:], case.names[0])


def _wrong_answers(case: Case) -> tuple[str, ...]:
    return (case.names[1], *(case.names[0] for _ in case.names[1:]))


def _ranking_answers(case: Case) -> tuple[str, ...]:
    names = case.names
    return tuple(" > ".join((name, *(other for other in names if other != name))) for name in names)


def _language(language: str) -> Callable[[Case], tuple[str, ...]]:
    return _one_each(lambda name: TRANSLATIONS[name][language])


def _span(make: Callable[[list[str]], str], fewest: int = 1) -> Callable[[Case, str, int], str | None]:
    """A rule of the words alone, for texts that have so many."""
    return lambda case, text, label: make(found) if len(found := words(text)) >= fewest else None


def _starting(case: Case, text: str, label: int) -> str:
    return next((word for word in words(text) if word.lower().startswith(case.initial)), "none")


def _reason(case: Case, text: str, label: int) -> str | None:
    word = telling_word(text, label, case.evidence)
    return None if word is None else f'"{word}" -> {case.names[label]}'


def _headed(case: Case, text: str, label: int) -> str | None:
    found = words(text)
    return f"{found[0]}: {case.names[label]}" if found else None


def _short(source: Source) -> bool:
    return source.is_short


def _single(source: Source) -> bool:
    """Labels of one word each, so few that they are no burden."""
    return len(source.names) <= 8 and not any(" " in name for name in source.names)


def _spelled(source: Source) -> bool:
    return _single(source) and max(map(len, source.names)) <= 11


def _prefixed(source: Source) -> bool:
    return _spelled(source) and len({name[:3] for name in source.names if len(name) > 3}) == len(source.names)


def _translated(source: Source) -> bool:
    return _single(source) and all(name in TRANSLATIONS for name in source.names)


def _copied(source: Source) -> bool:
    return not source.is_pair and not source.is_marked


def _counted(source: Source) -> bool:
    return _copied(source) and COUNTED[0] <= source.median <= COUNTED[1]


def _told(source: Source) -> bool:
    return bool(source.holds)


def _size(fewest: int, most: int) -> Callable[[Source], bool]:
    return lambda source: source.is_short and fewest <= len(source.names) <= most


def _rules() -> dict[str, Rule]:
    def closed(
        name: str, group: str, fits: Callable[[Source], bool], answers: Callable[[Case], tuple[str, ...]]
    ) -> Rule:
        return Rule(name, group, PHRASES[name], fits, answers=answers, judges=name not in ("is", "is_not"))

    def span(name: str, make: Callable[[list[str]], str], fewest: int = 1) -> Rule:
        return Rule(name, "span", PHRASES[name], _copied, written=_span(make, fewest), judges=False)

    def with_label(name: str, written: Callable[[Case, str, int], str | None]) -> Rule:
        return Rule(name, "reason", PHRASES[name], lambda source: _copied(source) and _short(source), written=written)

    numbers = (*map(str, range(1, 10)), "10+")
    count = Rule(
        name="word_count",
        group="span",
        phrases=PHRASES["word_count"],
        fits=_counted,
        written=_span(lambda found: numbers[min(len(found), 10) - 1]),
        judges=False,
        possible=numbers,
    )
    spoken: Mapping[str, Callable[[Case], tuple[str, ...]]] = {name: _language(name) for name in LANGUAGES}
    rules = (
        closed("word", "word", _short, lambda case: case.names),
        closed("letter", "code", _size(2, 8), lambda case: case.letters),
        closed("number", "code", _size(2, 8), lambda case: case.numbers),
        closed("symbol", "code", _size(2, 6), lambda case: case.symbols),
        closed("json", "form", _short, _json_answers),
        closed("json_flag", "form", _short, _flag_answers),
        closed("tag", "form", _short, lambda case: tuple(f"<{case.key}>{name}</{case.key}>" for name in case.names)),
        closed("sentence", "form", _short, lambda case: tuple(case.sentence.format(name) for name in case.names)),
        closed("assignment", "form", _short, lambda case: tuple(f"{case.key}={name}" for name in case.names)),
        closed("brackets", "form", _short, _one_each("[[{}]]".format)),
        closed("upper", "spelling", _short, _one_each(str.upper)),
        closed("backwards", "spelling", _spelled, _one_each(lambda name: name[::-1])),
        closed("hyphens", "spelling", _spelled, _one_each("-".join)),
        closed("prefix", "spelling", _prefixed, _one_each(lambda name: name[:3])),
        *(closed(name, "language", _translated, answers) for name, answers in spoken.items()),
        closed("next", "order", _size(3, 7), _next_answers),
        closed("ranking", "order", _size(2, 4), _ranking_answers),
        closed("opposite", "reverse", _size(2, 2), lambda case: case.names[::-1]),
        closed("wrong", "reverse", _size(3, 6), _wrong_answers),
        closed("is", "reverse", _told, _yes_where("yes", "no")),
        closed("is_not", "reverse", _told, _yes_where("no", "yes")),
        span("first_word", lambda found: found[0]),
        span("second_word", lambda found: found[1], 2),
        span("last_word", lambda found: found[-1]),
        span("first_three", lambda found: " ".join(found[:3]), 3),
        span("last_two", lambda found: " ".join(found[-2:]), 2),
        span("opening", lambda found: " ".join(found[:4]).upper(), 4),
        span("longest_word", lambda found: max(found, key=len)),
        Rule("starting", "span", PHRASES["starting"], _copied, written=_starting, judges=False),
        count,
        with_label("reason", _reason),
        with_label("headed", _headed),
    )
    return {rule.name: rule for rule in rules}


RULES = _rules()
"""Every rule by name."""
