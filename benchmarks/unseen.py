"""The main tables: every generator, rival and control on the test tasks, which nothing was chosen by.

    python benchmarks/unseen.py           # trains the oracles that are missing, evaluates what is missing
    python benchmarks/unseen.py --show    # the tables again, from the figures kept

Takes its settings from configs/zoo/oracles.yaml and configs/evaluate/test.yaml; goes on where it was interrupted. The
whole report lies where that config says; its summary and its first figure are kept in benchmarks/results, and the
tables of docs/results.md and README.md are printed as Markdown.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from loragen.cli import console
from loragen.evaluation.cells import ALL
from loragen.evaluation.config import BASE, MULTITASK, ORACLE, EvaluateConfig
from loragen.evaluation.controls import NONSENSE, OTHER, SHUFFLED
from loragen.evaluation.evaluate import evaluate_generators
from loragen.evaluation.markdown import span
from loragen.evaluation.report_model import TITLES
from loragen.evaluation.summary import Summary
from loragen.zoo.build import build_zoo

RESULTS = Path("benchmarks/results/unseen.json")
FIGURE = Path("benchmarks/results/unseen_gains.png")
ORACLES, TEST = Path("configs/zoo/oracles.yaml"), Path("configs/evaluate/test.yaml")
SPLITS = {"test_near": "families that the zoo knows", "test_far": "families that it does not know"}
CONTROLS = (NONSENSE, OTHER, SHUFFLED)
SMALL = (BASE, MULTITASK, "topk", "sg", "sg, 8 a class", ORACLE)
"""Methods of the small table."""


def kept() -> Summary:
    """The summary of the last run."""
    return Summary.checked(json.loads(RESULTS.read_text())["summary"], source=str(RESULTS))


def main_tables(summary: Summary) -> str:
    """A table a split: mean, recovered gain and paired difference to topk, by both scores."""
    return "\n\n".join(_main_table(summary, split) for split in SPLITS)


def _main_table(summary: Summary, split: str) -> str:
    rows = {(row.method, row.score): row for row in summary.rows if row.group == split}
    count = next(iter(rows.values())).tasks
    head = [f"{count} tasks of {SPLITS[split]}"]
    for title in ("label text", "kNN"):
        head += [title, "recovered gain", "above topk"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    fitted = _fitted()
    for method in dict.fromkeys(method for method, _ in rows if method not in fitted):
        cells = [method]
        for score in summary.main:
            row = rows[method, score]
            cells.append(f"{row.mean.mean:.3f}")
            cells.append(span(row.gain, digits=2) if row.gain else "")
            cells.append(span(row.above["topk"], signed=True) if "topk" in row.above else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def few_table(summary: Summary) -> str:
    """Adapters fitted to a few examples of each class: mean, recovered gain and paired difference to the rival's."""
    fitted = _fitted()
    rival = fitted[0]
    head = ["fitted to examples"]
    for title in ("label text", "kNN"):
        head += [title, "recovered gain", f"above {rival}"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for split, families in SPLITS.items():
        for method in fitted:
            cells = [f"{method}: {families}"]
            for score in summary.main:
                row = summary.row(split, method, score)
                assert row is not None
                assert row.gain is not None
                cells += [f"{row.mean.mean:.3f}", span(row.gain, digits=2)]
                cells.append(span(row.above[rival], signed=True) if rival in row.above else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _fitted() -> tuple[str, ...]:
    """Rows of adapters that are fitted to examples, the rival's first."""
    few = EvaluateConfig.from_yaml(TEST).few_shot
    assert few is not None
    return tuple(few.method(start) for start in (MULTITASK, *few.generators))


def control_table(summary: Summary) -> str:
    """What it costs each generator to be told something else, on the first texts of all test tasks."""
    costs = {(row.method, row.control, row.score): row.cost for row in summary.controls if row.group == ALL}
    spreads = {(row.method, row.score): row.spread for row in summary.paraphrases}
    head = ["right description minus", *(f"{name}: {TITLES[score]}" for score in summary.main for name in CONTROLS)]
    head += [f"spread over wordings: {TITLES[score]}" for score in summary.main]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for method in dict.fromkeys(method for method, _, _ in costs):
        cells = [f"{costs[method, name, score].mean:+.3f}" for score in summary.main for name in CONTROLS]
        cells += [f"{spreads[method, score].mean:.3f}" for score in summary.main]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def small_table(summary: Summary) -> str:
    """The methods that the README shows, each with its recovered gains, means over its four scores last.

    The mean gain is the mean of the four gains, not the gain of the mean score.
    """
    lines = ["| adapter | near, label text | near, kNN | far, label text | far, kNN | mean |", "|---" * 6 + "|"]
    for method in SMALL:
        rows = [summary.row(split, method, score) for split in SPLITS for score in summary.main]
        values = [(row.mean.mean, row.gain.mean) for row in rows if row is not None and row.gain is not None]
        assert len(values) == 4
        averages = tuple(sum(column) / len(values) for column in zip(*values, strict=True))
        cells = [f"{value:.3f} ({gain:.2f})" for value, gain in (*values, averages)]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(summary: Summary) -> str:
    """All tables."""
    parts = (main_tables(summary), few_table(summary), control_table(summary), small_table(summary))
    return "\n\n".join(parts)


def rounded(value: Any) -> Any:
    """Numbers with 5 digits: there is nothing behind them."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(part) for part in value]
    return round(value, 5) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="print the tables of the last run")
    arguments = parser.parse_args()
    if arguments.show:
        print(tables(kept()))
        return
    config = EvaluateConfig.from_yaml(TEST)
    with console.progress() as update:
        build_zoo(ORACLES, progress=lambda stage, done, total: update(f"oracles: {stage}", done, total))
        report = evaluate_generators(config, progress=update)
    forgetting = sum(cell.forgetting_seconds for cell in report.cells)
    controls = sum(cell.seconds for cell in report.cells if cell.scores is None)
    seconds = {"all": sum(cell.seconds for cell in report.cells), "controls": controls, "forgetting": forgetting}
    RESULTS.parent.mkdir(exist_ok=True)
    summary = report.summary.model_dump(mode="json")
    RESULTS.write_text(json.dumps(rounded({"seconds": seconds | report.seconds, "summary": summary})) + "\n")
    shutil.copy(config.out / "gains.png", FIGURE)
    print(tables(kept()))


if __name__ == "__main__":
    main()
