"""What each kind of evidence is worth: tables and a figure from the scores that `evidence_runs.py` keeps.

    python benchmarks/evidence.py [--split validation]    # the tables as Markdown; without a split those of the tests
    python benchmarks/evidence.py --figure                # and the figure, benchmarks/results/evidence_gains.png

Only seeds that are whole for every task of a split count; "seeds" says which.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from evidence_runs import BASE, BOTH, FEW, ONCE, ORACLE, SEEDS, SHARED, T50, T200, T1000, WORDS, lines

from loragen.confidence.confidence import Confidence
from loragen.confidence.expected import ExpectedGain
from loragen.evaluation.below_base import below_base
from loragen.evaluation.calibration import calibrate
from loragen.evaluation.markdown import span
from loragen.evaluation.statistics import Table, difference_interval, gain_interval, mean_interval
from loragen.zoo.zoo import Zoo

FIGURE = Path("benchmarks/results/evidence_gains")
SHOWN = (BASE, SHARED, WORDS, T50, T200, T1000, FEW, BOTH, ORACLE)
SPLITS = {"test_near": "families that the zoo knows", "test_far": "families that it does not know"}
NAMES = {
    BASE: "nothing: the base",
    SHARED: "nothing: one LoRA for all tasks",
    WORDS: "a description",
    T50: "+ 50 texts without labels",
    T200: "+ 200 texts without labels",
    T1000: "+ 1,000 texts without labels",
    FEW: "+ 8 labelled examples a class",
    BOTH: "+ 8 a class and 200 texts",
    ORACLE: "all training data: the oracle",
}


class Scores:
    """Scores of one split: row → task → seed → line."""

    def __init__(self, split: str) -> None:
        self.by_row: dict[str, dict[str, dict[int, Mapping[str, object]]]] = {}
        for line in lines(split):
            self.by_row.setdefault(str(line["row"]), {}).setdefault(str(line["task"]), {})[int(str(line["seed"]))] = (
                line
            )
        self.tasks = sorted(self.by_row.get(BASE, {}))

    def seeds(self, row: str) -> list[int]:
        """Seeds that a row has for every task."""
        known = self.by_row.get(row, {})
        wanted = SEEDS[:1] if row in ONCE else SEEDS
        return [seed for seed in wanted if self.tasks and all(seed in known.get(task, {}) for task in self.tasks)]

    def table(self, row: str, score: str = "accuracy", seeds: Sequence[int] | None = None) -> Table:
        """(tasks, seeds)."""
        chosen = self.seeds(row) if seeds is None else seeds
        return np.array([[self.by_row[row][task][seed][score] for seed in chosen] for task in self.tasks], dtype=float)

    def mean(self, row: str) -> dict[str, float]:
        """Task → label-text accuracy, the mean over seeds."""
        return dict(zip(self.tasks, self.table(row).mean(1).tolist(), strict=True))

    @property
    def rows(self) -> list[str]:
        """Rows that are whole for a seed at least."""
        return [row for row in SHOWN if self.seeds(row)]


def gains_table(split: str) -> str:
    """Mean, recovered gain and difference to the description alone, and how often a row is below that and the base."""
    scores = Scores(split)
    base, oracle, words = (scores.table(row) for row in (BASE, ORACLE, WORDS))
    head = [f"{len(scores.tasks)} tasks of {SPLITS.get(split, split)}", "seeds", "label text", "recovered gain"]
    head += [
        "above the description alone",
        "below that by over .02",
        "by over .05",
        "below the base by over .01",
        "kNN",
    ]
    lines_ = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in scores.rows:
        seeds, own = scores.seeds(row), scores.table(row)
        cells = [row, str(len(seeds)), f"{own.mean():.3f}"]
        gain = gain_interval(own, base, oracle, rng=np.random.default_rng(0))
        cells.append(span(gain, digits=2))
        if row in (BASE, WORDS):
            cells += ["", "", ""]
        else:
            matched = own if len(seeds) == words.shape[1] else own.mean(1, keepdims=True)
            against = words if matched.shape == words.shape else words.mean(1, keepdims=True)
            less = matched.mean(1) - against.mean(1)
            cells.append(span(difference_interval(matched, against, rng=np.random.default_rng(0)), signed=True))
            cells += [f"{int((less < -0.02 - 1e-9).sum())}", f"{int((less < -0.05 - 1e-9).sum())}"]
        below = below_base(scores.mean(row), scores.mean(BASE))
        cells.append("" if row == BASE else f"{round(below.share * below.tasks)}")
        cells.append(f"{mean_interval(scores.table(row, 'knn_accuracy'), rng=np.random.default_rng(0)).mean:.3f}")
        lines_.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines_)


def small_table(splits: Sequence[str] = tuple(SPLITS)) -> str:
    """Both scores near and far by evidence, each with its recovered gain."""
    every = [Scores(split) for split in splits]
    scores = ("accuracy", "knn_accuracy")
    lines_ = ["| what is given | near, label text | near, kNN | far, label text | far, kNN |", "|---" * 5 + "|"]
    for row in SHOWN:
        if not all(one.seeds(row) for one in every):
            continue
        cells = []
        for one in every:
            for score in scores:
                own, base, oracle = (one.table(each, score).mean() for each in (row, BASE, ORACLE))
                cells.append(f"{own:.3f} ({(own - base) / (oracle - base):.2f})")
        lines_.append(f"| {NAMES.get(row, row)} | {' | '.join(cells)} |")
    return "\n".join(lines_)


def expected_of(scores: Scores, row: str, confidence: Confidence) -> dict[str, ExpectedGain]:
    """Task → what is expected of a row's adapter, by the figures of the first seed."""
    found = {}
    for task in scores.tasks:
        figures = scores.by_row[row][task][SEEDS[0]]["figures"]
        assert isinstance(figures, dict)
        told = (
            confidence.expect("generated", figures, "labels")
            if row == WORDS
            else confidence.expect("adapted", figures, "texts")
        )
        assert told is not None
        found[task] = told
    return found


def trust_table(splits: Sequence[str]) -> str:
    """Expected against realised gains, and tasks below the base before and after the fall-back."""
    confidence = Confidence.of("sg", Zoo.open())
    assert confidence is not None
    head = ["tasks", "from", "expected", "realised", "mean error", "rank correlation", "in the 80 % interval"]
    head += ["below the base by over .01", "with fall-back", "none given out"]
    lines_ = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    every = [(split, Scores(split)) for split in splits]
    groups = [
        *((split, [one]) for split, one in every),
        *([("all", [one for _, one in every])] if len(every) > 1 else []),
    ]
    for name, parts in groups:
        for row in (WORDS, T200):
            if not all(SEEDS[0] in one.seeds(row) for one in parts):
                continue
            pairs, before, after, refused = [], 0, 0, 0
            for one in parts:
                told, base, own = expected_of(one, row, confidence), one.mean(BASE), one.mean(row)
                pairs += [(told[task], own[task] - base[task]) for task in one.tasks]
                bad = {task for task in one.tasks if own[task] - base[task] < -0.01 - 1e-9}
                kept = {task for task in one.tasks if told[task].gain > 0}
                before, after, refused = (
                    before + len(bad),
                    after + len(bad & kept),
                    refused + len(one.tasks) - len(kept),
                )
            found = calibrate(pairs, np.random.default_rng(0))
            cells = [name, row, f"{found.expected:+.3f}", f"{found.realised:+.3f}", f"{found.error:.3f}"]
            cells.append("" if found.rank_correlation is None else span(found.rank_correlation, digits=2))
            cells += [f"{found.coverage:.0%}", f"{before} of {found.tasks}", f"{after} of {found.tasks}", f"{refused}"]
            lines_.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines_)


def draw(splits: Sequence[str]) -> None:
    """The recovered gain by evidence, with intervals."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    from loragen.plotting import COLOURS, INK, STYLE, write_figure

    with rc_context(dict(STYLE)):
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        rows = [WORDS, T50, T200, T1000, FEW, BOTH]
        for number, split in enumerate(splits):
            scores = Scores(split)
            for place, row in enumerate(rows):
                if not scores.seeds(row):
                    continue
                gain = gain_interval(
                    scores.table(row), scores.table(BASE), scores.table(ORACLE), rng=np.random.default_rng(0)
                )
                at = place + 0.16 * (number - (len(splits) - 1) / 2)
                axes.plot([at, at], [gain.low, gain.high], color=COLOURS[number], linewidth=1.5)
                label = SPLITS.get(split, split) if place == 0 else None
                axes.plot([at], [gain.mean], "os"[number % 2], color=COLOURS[number], label=label)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xticks(range(len(rows)), rows)
        axes.set_ylabel("recovered gain, label text")
        axes.grid(axis="y")
        axes.legend(loc="upper left")
        write_figure(figure, FIGURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("validation", *SPLITS))
    parser.add_argument("--figure", action="store_true", help="draw the figure too")
    arguments = parser.parse_args()
    splits = [arguments.split] if arguments.split else [split for split in SPLITS if Scores(split).rows]
    print("\n\n".join([*map(gains_table, splits), trust_table(splits), small_table(splits)]))
    if arguments.figure:
        draw(splits)


if __name__ == "__main__":
    main()
