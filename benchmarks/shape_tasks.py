"""Makes tasks of other shapes from the public tasks, by rule, so that only the description tells what to answer.

    python benchmarks/shape_tasks.py            # data/tasks -> data/shapes, and configs/tasks/shapes.yaml
    python benchmarks/shape_tasks.py --check    # no train text in a test, ids, answers, what a constant answer gets

A task is a source of shape_sources.yaml with a rule of shape_rules.py; which go together in which split, and what is
held out, stands in shape_plan.py. One source's texts come under several rules, cut alike for all of them, so a text
does not tell the rule. Texts have the licences of their sources and stay out of the repository; the task file holds
words of this project alone. The same data gives the same bytes.

A train file holds at most 400 lines, even over the answers, and comes of the source's train file; a test file at most
150, spread as the source's test file is, but no answer has more than .8 of it where there are others.
"""

import argparse
import json
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, Final, Literal, final

import yaml
from shape_cases import Case, Source
from shape_phrases import BRIEF, FULL
from shape_plan import SEED, Plan, hashed, plans
from shape_rules import RULES, Rule
from shape_words import cut, cut_pair, evidence_of
from task_readers import key_of

from loragen.errors import LoragenError, TaskError
from loragen.files import atomic_write
from loragen.tasks.task_set import TaskSet

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = Path(__file__).with_name("shape_sources.yaml")
CONFIG: Final = ROOT / "configs/tasks/shapes.yaml"
PARTS: Final = ("train", "test")
MOST: Final = {"train": 400, "test": 150}
MOST_OF_ONE: Final = 0.8
COMMON: Final = 0.06
"""Share of the lines that a label has if yes or no is asked about it."""
DESCRIPTIONS: Final = {"experts": 12, "others": 4}
"""Of a task that is judged; those of other rules have four."""
LONGEST: Final = 60
"""Words of a description."""
HEAD: Final = """\
# Tasks of other shapes: the public tasks with answers by rule. Written by `python benchmarks/shape_tasks.py`, which
# makes the texts into data/shapes from data/tasks; change rules and words there, not here. `kind` is the rule. Splits
# were made by hashes with seed 0, before anything was trained (benchmarks/shape_plan.py says how): `test_rule` has
# rules that no expert knows, `test_family` families that none knows, `test_both` both; `validation` has some of each,
# of other rules and families.
"""
Part = Literal["train", "test"]


@final
@dataclass(frozen=True)
class Line:
    """A text of a source, cut, with its label."""

    text: str
    pair: str | None
    label: int

    @property
    def key(self) -> str:
        """What two texts with the same words share."""
        return key_of(self.text, self.pair)


@final
@dataclass(frozen=True)
class Made:
    """A task as it is written."""

    plan: Plan
    descriptions: tuple[str, ...]
    labels: tuple[str, ...]
    parts: Mapping[str, Sequence[tuple[Line, str]]]
    """Texts with their answers."""

    def entry(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The task in the task file; ``row`` is its source's in tasks.json."""
        source = {part: f"{{id}}.{part}.jsonl" for part in PARTS} | ({"text_pair": "text_pair"} if row["pair"] else {})
        return {
            "id": self.plan.id,
            "description": self.descriptions[0],
            "paraphrases": list(self.descriptions[1:]),
            **({"labels": list(self.labels)} if self.labels else {}),
            "source": source if self.labels else source | {"completion": "completion"},
            "family": row["family"],
            "domain": row["domain"],
            "kind": self.plan.rule,
            "licence": row["licence"],
            "origin": row["source"],
            "commit": row["commit"],
        }

    def lines(self, part: str) -> str:
        """The content of one of its files."""
        name = "label" if self.labels else "completion"
        rows = (
            {"text": line.text, **({} if line.pair is None else {"text_pair": line.pair}), name: answer}
            for line, answer in self.parts[part]
        )
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


@final
@dataclass(frozen=True)
class Pool:
    """The sources' lines, by source and part; no train line has the words of any test line of any task."""

    table: Mapping[str, Mapping[str, Any]]
    sources: Mapping[str, Mapping[str, Source]]
    """By split and id."""
    lines: Mapping[str, Mapping[str, Sequence[Line]]]

    @classmethod
    def read(cls, folder: Path) -> "Pool":
        """Read the sources that shape_sources.yaml names, and all tests.

        Raises:
            TaskError: the public tasks are not there.
        """
        table = {row["id"]: row for row in json.loads(_content(folder / "tasks.json"))}
        spoken = yaml.safe_load(SOURCES.read_text(encoding="utf-8"))
        named = {name: entry for entries in spoken.values() for name, entry in entries.items()}
        tested = {_line(row, 0).key for name in table for row in _rows(folder / f"{name}.test.jsonl")}
        lines: dict[str, dict[str, list[Line]]] = {}
        for name, entry in named.items():
            at = {label: at for at, label in enumerate(entry.get("names") or table[name]["labels"])}
            lines[name] = {part: [] for part in PARTS}
            for part, found in lines[name].items():
                seen = set(tested) if part == "train" else set()
                for row in _rows(folder / f"{name}.{part}.jsonl"):
                    line = _line(row, at[row["label"]])
                    if line.key not in seen:
                        found.append(line)
                    seen.add(line.key)
        made = {name: _source(name, entry, table[name], lines[name]["train"]) for name, entry in named.items()}
        return cls(table, {split: {name: made[name] for name in entries} for split, entries in spoken.items()}, lines)

    @property
    def families(self) -> dict[str, str]:
        """Of each source."""
        return {name: self.table[name]["family"] for name in self.lines}

    def make(self, plan: Plan) -> Made:
        """One task."""
        rule = RULES[plan.rule]
        source = next(sources[plan.source] for sources in self.sources.values() if plan.source in sources)
        rows = [(line.text, line.label) for line in self.lines[plan.source]["train"]]
        case = replace(case_of(plan, source), evidence=evidence_of(rows, len(source.names)))
        parts = {
            part: choose(
                part, [(line, rule.answer(case, line.text, line.label)) for line in found], bool(rule.labels(case))
            )
            for part, found in self.lines[plan.source].items()
        }
        words = Random(f"{SEED} words of {plan.id}")
        number = DESCRIPTIONS["experts" if plan.split == "experts" else "others"]
        return Made(plan, described(rule, case, words, number), rule.labels(case), parts)


def case_of(plan: Plan, source: Source) -> Case:
    """What is drawn for a task; a second variant answers otherwise than the first."""
    case = Case.drawn(source, Random(f"{SEED} {replace(plan, variant=1).id}"))
    answers = RULES[plan.rule].answers
    if plan.variant == 1 or answers is None:
        return case
    others = (Case.drawn(source, Random(f"{SEED} {plan.id} {draw}")) for draw in range(100))
    return next(other for other in others if answers(other) != answers(case))


def described(rule: Rule, case: Case, rng: Random, number: int) -> tuple[str, ...]:
    """Descriptions of a task: four, each with other words for the question and for the answer, and mixtures of these.

    Raises:
        TaskError: one is too long.
    """
    source, fields = case.source, rule.fields(case)
    phrases = [phrase.format(**fields) for phrase in rng.sample(rule.phrases, 4)]
    full = zip(rng.sample(FULL, 2), rng.sample(source.full, 2), strict=True)
    brief = zip(rng.sample(BRIEF, 2), rng.sample(source.brief, 2), strict=True)
    asked = [frame.format(words, text=source.text) for frame, words in (*full, *brief)]
    rng.shuffle(asked)
    found = tuple(f"{asked[at]} {phrase}" if rule.judges else phrase for at, phrase in enumerate(phrases))
    if rule.judges:
        rest = [one for one in _mixed(source, phrases) if one not in found and len(one.split()) <= LONGEST]
        found += tuple(rng.sample(rest, max(0, number - len(found))))
    if long := [one for one in found if len(one.split()) > LONGEST]:
        raise TaskError(f"A description has more than {LONGEST} words: {long[0]}")
    return found


def _mixed(source: Source, phrases: Sequence[str]) -> Iterator[str]:
    """All ways to put a question together with a way to answer."""
    for frames, questions in ((FULL, source.full), (BRIEF, source.brief)):
        for frame, words, phrase in product(frames, questions, phrases):
            yield f"{frame.format(words, text=source.text)} {phrase}"


def choose(part: str, found: Sequence[tuple[Line, str | None]], is_closed: bool) -> list[tuple[Line, str]]:
    """The lines of one part, by their hashes: to train on, in turn from each answer or, if open, label."""
    told = [(line, answer) for line, answer in found if answer is not None]
    told.sort(key=lambda one: hashed(one[0].key))
    if part == "train":
        return _in_turn(told, lambda one: one[1] if is_closed else str(one[0].label))[: MOST[part]]
    common, most = Counter(answer for _, answer in told[: MOST[part]]).most_common(1)[0]
    rest = [one for one in told if one[1] != common]
    if most <= MOST_OF_ONE * min(len(told), MOST[part]) or not rest:
        return told[: MOST[part]]
    others = rest[: round(MOST[part] * (1 - MOST_OF_ONE))]
    same = [one for one in told if one[1] == common][: round(len(others) * MOST_OF_ONE / (1 - MOST_OF_ONE))]
    return sorted([*others, *same], key=lambda one: hashed(one[0].key))


def _in_turn(told: Iterable[tuple[Line, str]], group: Callable[[tuple[Line, str]], str]) -> list[tuple[Line, str]]:
    """First the first of each group, then the second of each, and so on."""
    seen: Counter[str] = Counter()
    ranked = []
    for at, one in enumerate(told):
        ranked.append((seen[group(one)], at, one))
        seen[group(one)] += 1
    return [one for _, _, one in sorted(ranked, key=lambda row: row[:2])]


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TaskError(
            f"no {path}; get the public tasks: python benchmarks/fetch_tasks.py --out data/tasks"
        ) from error


def _rows(path: Path) -> Iterator[dict[str, str]]:
    return map(json.loads, _content(path).splitlines())


def _line(row: Mapping[str, str], label: int) -> Line:
    if "text_pair" in row:
        return Line(*cut_pair(row["text"], row["text_pair"]), label)
    return Line(cut(row["text"]), None, label)


def _source(name: str, entry: Mapping[str, Any], row: Mapping[str, Any], lines: Sequence[Line]) -> Source:
    counts = Counter(line.label for line in lines)
    return Source(
        id=name,
        names=tuple(entry["names"].values() if "names" in entry else row["labels"]),
        text=entry["text"],
        full=tuple(entry["full"]),
        brief=tuple(entry["brief"]),
        key=entry["key"],
        holds=entry.get("holds", ""),
        is_pair=row["pair"],
        is_marked=entry.get("marked", False),
        median=round(statistics.median(len(line.text.split()) for line in lines)),
        common=tuple(sorted(label for label, count in counts.items() if count >= COMMON * len(lines)))
        or (counts.most_common(1)[0][0],),
    )


def task_file(made: Sequence[Made], table: Mapping[str, Mapping[str, Any]]) -> str:
    """Content of the task file."""
    splits: dict[str, list[str]] = defaultdict(list)
    for one in made:
        splits[one.plan.split].append(one.plan.id)
    content = {
        "root": "../../data/shapes",
        "tasks": [one.entry(table[one.plan.source]) for one in made],
        "splits": dict(splits),
    }
    return HEAD + yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118)


def write(tasks: Path, out: Path) -> None:
    """Make everything."""
    pool = Pool.read(tasks)
    made = [pool.make(plan) for plan in plans(pool.sources, pool.families)]
    for one in made:
        for part in PARTS:
            atomic_write(out / f"{one.plan.id}.{part}.jsonl", one.lines(part))
    atomic_write(CONFIG, task_file(made, pool.table))
    for split, number in Counter(one.plan.split for one in made).items():
        own = [one.plan for one in made if one.plan.split == split]
        families = {pool.families[plan.source] for plan in own}
        print(f"{split}: {number} tasks, {len({plan.rule for plan in own})} rules, {len(families)} families")
    print(f"{sum(len(rows) for one in made for rows in one.parts.values())} texts")


def check(out: Path) -> list[str]:
    """Print a line a task, with what a constant answer gets; the faults."""
    tasks = TaskSet.from_yaml(CONFIG, root=out)
    split_of = {name: split for split, names in tasks.splits.items() for name in names}
    trained: dict[str, str] = {}
    tested: dict[str, str] = {}
    faults = [f"{task.id} is in no split" for task in tasks if task.id not in split_of]
    for task in tasks:
        train, test = task.load_train(), task.load_test()
        for keys, part in ((trained, train), (tested, test)):
            pairs = part.pairs or (None,) * len(part)
            keys.update((key_of(text, pair), task.id) for text, pair in zip(part.texts, pairs, strict=True))
        answers = test.outputs or ()
        chance = Counter(answers).most_common(1)[0][1] / len(answers)
        if chance > MOST_OF_ONE + 0.01:
            faults.append(f"{task.id}: a constant answer gets {chance:.2f}")
        answered = f"{len(task.labels)} labels" if task.labels else "open"
        print(f"{split_of[task.id]:11}  {task.id:50}  {len(train):3} {len(test):3}  {answered:9}  {chance:.2f}")
    faults += [
        f"a train text of {trained[key]} is in the test of {tested[key]}" for key in trained.keys() & tested.keys()
    ]
    return faults


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=ROOT / "data/tasks", help="folder of the public tasks")
    parser.add_argument("--out", type=Path, default=ROOT / "data/shapes", help="folder to write to")
    parser.add_argument("--check", action="store_true", help="look at what is there, and write nothing")
    options = parser.parse_args(words)
    try:
        faults = check(options.out) if options.check else write(options.tasks, options.out)
    except LoragenError as error:
        print(error, file=sys.stderr)
        return 2
    for fault in faults or ():
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
