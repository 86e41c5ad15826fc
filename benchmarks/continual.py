"""Every strategy of updating on four groups of experts that arrive one after the other, for sg and for icm.

    python benchmarks/continual.py [--only sg]   # goes on where it was; reports in benchmarks/results/continual
    python benchmarks/continual.py --show        # the tables again

Groups and rows are those of configs/sequence/groups.yaml. The icm here reads descriptions alone, has six layers instead
of twelve, since the codes of sixteen experts are short, and is trained for 10 epochs of 50 steps; its tables are of 60
texts a task, and lack `merge_sequence`, which no generator makes. The claims of the papers that are tried stand in
`CLAIMS`. Wants data/tasks, see fetch_tasks.py.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from loragen.cli import console
from loragen.evaluation.sequences.config import SequenceConfig
from loragen.evaluation.sequences.report import REPORT, SequenceReport, table
from loragen.evaluation.sequences.rows import SequenceRow
from loragen.evaluation.sequences.run import evaluate_sequence
from loragen.files import atomic_write

CONFIG = Path("configs/sequence/groups.yaml")
RESULTS, RUNS = Path("benchmarks/results/continual"), Path("runs/sequence")
KINDS: dict[str, dict[str, Any]] = {
    "sg": {},
    "icm": {
        "icm": {"evidence": ["description"], "kl_weight": 0.005, "channels": [8, 16, 32, 64, 128, 256]},
        "epochs": 10,
        "steps_per_epoch": 50,
    },
}
"""Generator → what differs from its config in configs/train."""
SEQUENCES: dict[str, dict[str, Any]] = {"icm": {"texts": 60, "merged": None}}
"""Generator → what differs from the sequence's config."""
CLAIMS = {
    "l2+distill forgets at most half of what naive does, its last group within two points (2203.17269)": (
        lambda rows: _fm(rows, "l2+distill") <= 0.5 * _fm(rows, "naive") and _last(rows, "l2+distill", 0.02)
    ),
    "ilora forgets no more than replay with the same buffer (2402.18865)": (
        lambda rows: _fm(rows, "ilora") <= _fm(rows, "replay")
    ),
    "osf forgets less than naive, AA within a point of l2 (2504.07097)": (
        lambda rows: _fm(rows, "osf") < _fm(rows, "naive") and _aa(rows, "osf") >= _aa(rows, "l2") - 0.01
    ),
    "stages forget no more than naive (2509.07945)": lambda rows: _fm(rows, "stages") <= _fm(rows, "naive"),
    "nullspace forgets less than naive (2604.01152)": lambda rows: _fm(rows, "nullspace") < _fm(rows, "naive"),
}
"""What is claimed → whether it holds for the rows of a report."""
Rows = Mapping[str, SequenceRow]


def _fm(rows: Rows, name: str) -> float:
    return rows[name].scores.fm or 0.0


def _aa(rows: Rows, name: str) -> float:
    return rows[name].scores.aa or 0.0


def _last(rows: Rows, name: str, room: float) -> bool:
    """Whether the last group stands within some room of naive's: both have the same joint scores to be short of."""
    return (rows[name].scores.im or 0.0) <= (rows["naive"].scores.im or 0.0) + room


def config_of(kind: str) -> SequenceConfig:
    """The sequence for one kind of generator."""
    values = yaml.safe_load(CONFIG.read_text())
    training = yaml.safe_load(Path(f"configs/train/{kind}.yaml").read_text()) | KINDS[kind]
    generator = RUNS / f"{kind}.yaml"
    atomic_write(generator, yaml.safe_dump(training, sort_keys=False))
    return SequenceConfig.model_validate(
        values | SEQUENCES.get(kind, {}) | {"generator": generator, "out": RUNS / kind}
    )


def kept(kind: str) -> SequenceReport | None:
    """The report of an earlier run."""
    path = RESULTS / f"{kind}.json"
    return SequenceReport.model_validate_json(path.read_text()) if path.exists() else None


def claims(report: SequenceReport) -> str:
    """A row a claim."""
    rows = {row.name: row for row in report.rows}
    told = [f"| {claim} | {'yes' if holds(rows) else '**no**'} |" for claim, holds in CLAIMS.items()]
    return "\n".join(["| claim | holds |", "|---|---|", *told])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    for kind in KINDS if options.only is None else (options.only,):
        if not options.show:
            with console.progress() as update:
                report = evaluate_sequence(config_of(kind), update)
            for path in report.files:
                suffix = "json" if path.name == REPORT else path.name.rpartition(".")[2]
                if suffix in ("json", "svg"):
                    atomic_write(RESULTS / f"{kind}.{suffix}", path.read_bytes())
        found = kept(kind)
        if found is not None:
            print(f"{kind}\n\n{table(found.rows)}\n\n{claims(found)}\n")


if __name__ == "__main__":
    main()
