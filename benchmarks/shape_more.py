"""More tasks of other shapes, for a generator that learns through the base: known rules on the experts' own sources.

    python benchmarks/shape_more.py [--number 480]   # data/tasks -> data/shapes/more and data/shapes/more.yaml

An expert costs a training, a further task of the same texts nothing but its words: any rule that experts know, on any
source that they know, which no expert and no held-out task has. So many are drawn, by hash, the rules in turn; a rule
with a code, a key or a label to choose comes in two variants. Nothing of it is kept in the repository: the same data
gives the same bytes. The config `more_tasks` of a hypernetwork's training names the task file.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Final

import yaml
from shape_cases import Case, Source
from shape_plan import KNOWN, SEED, Plan, hashed, plans
from shape_rules import RULES
from shape_tasks import PARTS, ROOT, Made, Pool

from loragen.errors import LoragenError
from loragen.files import atomic_write

MOST: Final = {"train": 64, "test": 20}
"""Lines of a task's files."""
NUMBER: Final = 480
SPLIT: Final = "more"


def more_plans(sources: Mapping[str, Source], taken: Iterable[Plan], number: int) -> list[Plan]:
    """So many tasks of known rules on sources, the rules in turn, that are not taken."""
    gone = {plan.id for plan in taken}
    by_rule: dict[str, list[Plan]] = defaultdict(list)
    for rule in KNOWN:
        found = [
            Plan(SPLIT, name, rule, variant)
            for name, source in sources.items()
            if RULES[rule].fits(source)
            for variant in ((1, 2) if has_variants(rule, source) else (1,))
        ]
        by_rule[rule] = sorted((plan for plan in found if plan.id not in gone), key=lambda plan: hashed(plan.id))
    in_turn = chain.from_iterable(zip_longest(*by_rule.values()))
    return [plan for plan in in_turn if plan is not None][:number]


def has_variants(rule: str, source: Source) -> bool:
    """True if two draws of what the rule chooses can have other answers."""
    answers = RULES[rule].answers
    if answers is None:
        return False
    first, *others = (answers(Case.drawn(source, Random(f"{SEED} {draw}"))) for draw in range(20))
    return any(other != first for other in others)


def shortened(made: Made) -> Made:
    """A task with the first lines of its files."""
    return replace(made, parts={part: made.parts[part][: MOST[part]] for part in PARTS})


def write(tasks: Path, out: Path, number: int) -> None:
    """Make everything."""
    pool = Pool.read(tasks)
    taken = plans(pool.sources, pool.families)
    known = {plan.source for plan in taken if plan.split == "experts"}
    sources = {name: source for name, source in pool.sources["experts"].items() if name in known}
    made = [shortened(pool.make(plan)) for plan in more_plans(sources, taken, number)]
    made = [one for one in made if len(one.parts["train"]) >= MOST["train"] // 2]
    for one in made:
        for part in PARTS:
            atomic_write(out / SPLIT / f"{one.plan.id}.{part}.jsonl", one.lines(part))
    entries = [one.entry(pool.table[one.plan.source]) for one in made]
    content = {"root": SPLIT, "tasks": entries, "splits": {SPLIT: [one.plan.id for one in made]}}
    atomic_write(out / f"{SPLIT}.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=118))
    families = {pool.families[one.plan.source] for one in made}
    print(f"{len(made)} tasks, {len({one.plan.rule for one in made})} rules, {len(families)} families")


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=Path, default=ROOT / "data/tasks", help="folder of the public tasks")
    parser.add_argument("--out", type=Path, default=ROOT / "data/shapes", help="folder to write to")
    parser.add_argument("--number", type=int, default=NUMBER)
    options = parser.parse_args(words)
    try:
        write(options.tasks, options.out, options.number)
    except LoragenError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
