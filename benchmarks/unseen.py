"""The main table of the README: every generator, rival and control on the test tasks, which nothing was chosen by.

    python benchmarks/unseen.py           # trains the oracles that are missing, evaluates what is missing
    python benchmarks/unseen.py --show    # the tables again, from the figures kept

Takes its settings from configs/zoo/oracles.yaml and configs/evaluate/test.yaml; goes on where it was interrupted. The
whole report lies where that config says; its summary and its first figure are kept in benchmarks/results, and the
tables of the README are printed as Markdown.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from loragen.cli import console
from loragen.evaluation.cells import ALL
from loragen.evaluation.controls import NONSENSE, OTHER, SHUFFLED
from loragen.evaluation.evaluate import MULTITASK, EvaluateConfig, evaluate
from loragen.evaluation.report import TITLES, span, write_report
from loragen.evaluation.summary import Summary
from loragen.zoo.build import Progress, ZooConfig, build

RESULTS = Path("benchmarks/results/unseen.json")
FIGURE = Path("benchmarks/results/unseen_gains.png")
ORACLES, TEST = Path("configs/zoo/oracles.yaml"), Path("configs/evaluate/test.yaml")
SPLITS = {"test_near": "families that the zoo knows", "test_far": "families that it does not know"}
CONTROLS = (NONSENSE, OTHER, SHUFFLED)


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
                assert row.gain is not None
                cells += [f"{row.mean.mean:.3f}", span(row.gain, digits=2)]
                cells.append(span(row.above[rival], signed=True) if rival in row.above else "")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _fitted() -> tuple[str, ...]:
    """Rows of adapters that are fitted to examples, the rival's first."""
    few = EvaluateConfig.from_yaml(TEST).few_shot
    assert few is not None
    return tuple(few.row(method) for method in (MULTITASK, *few.generators))


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


def tables(summary: Summary) -> str:
    """All that the README shows."""
    return f"{main_tables(summary)}\n\n{few_table(summary)}\n\n{control_table(summary)}"


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
    with console.progress() as update:

        def trained(step: Progress) -> None:
            update(f"oracles: {step.stage}", step.done, step.total)

        build(ZooConfig.from_yaml(ORACLES), trained)
        bench, cells = evaluate(EvaluateConfig.from_yaml(TEST), update)
    report, _ = write_report(bench, cells)
    forgetting = sum(cell.forgetting_seconds for cell in cells)
    controls = sum(cell.seconds for cell in cells if cell.scores is None)
    seconds = {"all": sum(cell.seconds for cell in cells), "controls": controls, "forgetting": forgetting}
    RESULTS.parent.mkdir(exist_ok=True)
    summary = report.summary.model_dump(mode="json")
    RESULTS.write_text(json.dumps(rounded({"seconds": seconds | report.seconds, "summary": summary})) + "\n")
    shutil.copy(bench.config.out / "gains.png", FIGURE)
    print(tables(kept()))


if __name__ == "__main__":
    main()
