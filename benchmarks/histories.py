"""Adapters from persons' histories, beside descriptions: accuracy on the persons' own texts (card E1, T1 and T2).

    python benchmarks/histories.py [--persons 20] [--generators sg icm]   # what is not yet kept; resumable
    python benchmarks/histories.py --show                                 # the tables again, from the figures kept

Persons are synthetic (`histories_persons.py`): each writes about two or three tasks of one kind in shares of its own,
and prefers some labels of each. Its description names the kind alone. Groups:

* known texts: domains are experts' tasks, histories are of the texts that the pool was trained on;
* new persons: the same domains, histories are of training texts that the pool has not seen;
* new domains: domains are validation tasks, of which the zoo holds no expert.

Rows: the bare base; the mean of all experts; the description alone; the history alone, both, both with the history's
labels, both with a history of texts dealt anew among twenty persons, both with another person's history, each by length
of the history; for experts' tasks also the mean of the person's own experts in its shares. The untrained pool takes
plain means; the trained one is made by `loragen train configs/train/history.yaml`, and its rows are left out while
there is none. Figures go to benchmarks/results/histories.json, person by person.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from histories_persons import GROUPS, Known, Told
from score_unseen import labelled

from loragen.adapters.adapter import Lora
from loragen.adapters.combine import weighted_sum
from loragen.bases.base import Base
from loragen.conditions.condition import Evidence
from loragen.conditions.history import History
from loragen.conditions.text_encoder import TextEncoder
from loragen.evaluation.statistics import difference_interval, mean_interval
from loragen.files import atomic_write
from loragen.generation import Pipeline
from loragen.generators.history import HISTORY, HISTORY_MANIFEST, TrainedPool
from loragen.training.threads import one_thread
from loragen.zoo.zoo import Zoo

RESULTS = Path("benchmarks/results/histories.json")
LENGTHS = (4, 16, 64)
BASE, MEAN, DESCRIBED, OWN = "base", "mean of all experts", "description alone", "own experts in its shares"
ROWS = ("history alone", "both", "both, with labels", "both, dealt anew", "both, another's")
Figures = dict[str, dict[str, dict[str, float]]]
"""Group → person → row → accuracy; ``seconds`` is a row too."""


@dataclass(frozen=True)
class Bench:
    """What persons are given adapters with."""

    zoo: Zoo
    encoder: TextEncoder
    base: Base
    generators: tuple[str, ...]

    @cached_property
    def known(self) -> Known:
        """The persons."""
        return Known.read()

    @cached_property
    def pools(self) -> dict[str, TrainedPool | None]:
        """The pools there are, by name."""
        folder = self.zoo.root / "generators" / HISTORY
        trained = {"trained": TrainedPool.load(folder)} if (folder / HISTORY_MANIFEST).is_file() else {}
        return {"untrained": None, **trained}

    @cached_property
    def pipelines(self) -> dict[tuple[str, str], Pipeline]:
        """By generator and pool."""
        made = {}
        for name in (*self.generators, "mean"):
            for pool, trained in self.pools.items():
                made[name, pool] = Pipeline.open(name, self.zoo, self.encoder)
                made[name, pool].__dict__["_pool"] = trained
        return made

    def adapters(self, group: str, number: int) -> dict[str, Callable[[], Lora | None]]:
        """What a person may be given, by row."""
        told = self.known.told(group, number)

        def made(generator: str, pool: str, evidence: Evidence) -> Callable[[], Lora]:
            return lambda: self.pipelines[generator, pool].generate(evidence)[0].adapter

        rows: dict[str, Callable[[], Lora | None]] = {BASE: lambda: None}
        rows[MEAN] = made("mean", "untrained", Evidence(told.description))
        if group != "new domains":
            experts = [self.zoo.adapter(name) for name in told.person.domains]
            rows[OWN] = lambda: weighted_sum(experts, list(told.person.shares))
        for name in self.generators:
            rows[row_name(name, DESCRIBED)] = made(name, "untrained", Evidence(told.description))
            for pool in self.pools:
                for length in LENGTHS:
                    for row, evidence in self._evidence(group, number, told, length).items():
                        rows[row_name(name, row, length, pool)] = made(name, pool, evidence)
        return rows

    def _evidence(self, group: str, number: int, told: Told, length: int) -> dict[str, Evidence]:
        own = told.history.subset(range(min(length, len(told.history))))
        plain, other = History.of(own.unlabelled()), self.known.told(group, number + 1).history
        theirs = other.subset(range(min(length, len(other)))).unlabelled()
        histories = (plain, plain, History.of(own), self.known.dealt(group, number, length), History.of(theirs))
        descriptions = ("", *[told.description] * 4)
        return {
            row: Evidence(description, history=history)
            for row, description, history in zip(ROWS, descriptions, histories, strict=True)
        }

    def run(self, group: str, number: int, done: dict[str, float]) -> dict[str, float]:
        """Accuracies of a person on its own texts, of the rows that are not done; with the seconds they took."""
        missing = {row: make for row, make in self.adapters(group, number).items() if row not in done}
        if not missing:
            return done
        begun, told = time.monotonic(), self.known.told(group, number)
        data = self.base.prepare(told.test, max_length=self.zoo.manifest.recipe.score_length)
        with one_thread():
            scored = {row: labelled(self.base.score(data, make())).accuracy for row, make in missing.items()}
        seconds = done.get("seconds", 0.0) + time.monotonic() - begun
        return done | {row: round(value, 4) for row, value in scored.items()} | {"seconds": round(seconds, 1)}


def row_name(generator: str, row: str, length: int | None = None, pool: str = "") -> str:
    """The name that a row is kept under."""
    return " | ".join([generator, row, *([] if length is None else [str(length), pool])])


def kept() -> Figures:
    """The figures of earlier runs."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {group: {} for group in GROUPS}


def tables(figures: Figures) -> str:
    """A table a group and generator, as Markdown: accuracy by length of the history, 95 % intervals over persons."""
    parts = []
    for group in GROUPS:
        persons = [rows for _, rows in sorted(figures.get(group, {}).items(), key=lambda one: int(one[0]))]
        rows = dict.fromkeys(row for person in persons for row in person if " | " in row)
        for generator in dict.fromkeys(row.split(" | ")[0] for row in rows):
            parts.append(_table(group, generator, persons))
    return "\n\n".join(parts)


def _table(group: str, generator: str, persons: list[dict[str, float]]) -> str:
    start = row_name(generator, DESCRIBED)
    complete = [person for person in persons if start in person]
    head = ["row", "pool", *(f"{length} texts" for length in LENGTHS), f"{LENGTHS[-1]} texts above the description"]
    lines = [f"{group}, {generator}, {len(complete)} persons", ""]
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in (BASE, MEAN, start, OWN):
        if all(row in person for person in complete):
            above = "" if row == start else _above(complete, row, start)
            lines.append(f"| {row.split(' | ')[-1]} | | {_mean(complete, row)} | | | {above} |")
    for pool in ("untrained", "trained"):
        for row in ROWS:
            names = [row_name(generator, row, length, pool) for length in LENGTHS]
            own = [person for person in complete if all(name in person for name in names)]
            if own:
                cells = [_mean(own, name) for name in names]
                lines.append(f"| {row} | {pool} | {' | '.join(cells)} | {_above(own, names[-1], start)} |")
    return "\n".join([*lines, "", *_controls(complete, generator)])


def _controls(persons: list[dict[str, float]], generator: str) -> list[str]:
    """What the right history is worth beside wrong ones, at the greatest length."""
    lines = []
    for pool in ("untrained", "trained"):
        right, dealt, others = (row_name(generator, row, LENGTHS[-1], pool) for row in ("both", *ROWS[-2:]))
        own = [person for person in persons if {right, dealt, others} <= person.keys()]
        if own:
            lines.append(
                f"{pool} pool, {LENGTHS[-1]} texts: the person's own history {_above(own, right, dealt)} above one "
                f"dealt anew, {_above(own, right, others)} above another's"
            )
    return lines


def _scores(persons: list[dict[str, float]], row: str) -> np.ndarray:
    return np.array([[person[row]] for person in persons])


def _mean(persons: list[dict[str, float]], row: str) -> str:
    return format(mean_interval(_scores(persons, row), rng=np.random.default_rng(0)), ".3f")


def _above(persons: list[dict[str, float]], row: str, start: str) -> str:
    interval = difference_interval(_scores(persons, row), _scores(persons, start), rng=np.random.default_rng(0))
    return format(interval, "+.3f")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--persons", type=int, default=20, help="of each group")
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=GROUPS, metavar="GROUP")
    parser.add_argument("--generators", nargs="*", default=["sg"])
    parser.add_argument("--zoo", type=Path, default=None)
    parser.add_argument("--show", action="store_true", help="print the tables of the figures kept")
    arguments = parser.parse_args()
    if not arguments.show:
        zoo = Zoo.open(arguments.zoo)
        bench = Bench(zoo, TextEncoder.load(), zoo.load_base(), tuple(arguments.generators))
        figures = kept()
        for group in arguments.groups:
            for number in range(arguments.persons):
                own = figures.setdefault(group, {})
                own[str(number)] = bench.run(group, number, own.get(str(number), {}))
                RESULTS.parent.mkdir(exist_ok=True)
                atomic_write(RESULTS, json.dumps(figures, indent=1) + "\n")
                print(f"{group}, person {number}: {own[str(number)]['seconds']} s in all", flush=True)
    print(tables(kept()))


if __name__ == "__main__":
    main()
