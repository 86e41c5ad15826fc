"""Times an evaluation with all rows, controls and three seeds, as that of the test report.

    python benchmarks/evaluation_speed.py [--tasks 3]   # some tasks: one process with a thread a core, a process a core
    python benchmarks/evaluation_speed.py --whole       # all 27 test tasks, a process a core
    python benchmarks/evaluation_speed.py --show

Tasks are the first of the test tasks in alphabetical order, and nothing is chosen by them; scores are compared
and thrown away. Reports are made; the oracles are there already. Figures go to
benchmarks/results/evaluation_speed.json. Wants data/tasks, see fetch_tasks.py.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from loragen.cli import console
from loragen.evaluation.config import EvaluateConfig
from loragen.evaluation.evaluate import evaluate_generators
from loragen.evaluation.report_model import Report
from loragen.files import atomic_write
from loragen.tasks.task_set import TaskSet
from loragen.zoo.executors import available_cores

RESULTS = Path("benchmarks/results/evaluation_speed.json")
CONFIG, TASKS = Path("configs/evaluate/test.yaml"), Path("configs/tasks/public.yaml")
BEFORE = 53
"""Minutes that the same evaluation of all test tasks took on 2 cores before cells were shared among processes."""
WANTED = 25


def some_tasks(number: int, folder: Path) -> tuple[Path, list[str]]:
    """A task file with the first test tasks alone, and their ids."""
    found = TaskSet.from_yaml(TASKS)
    ids = sorted(task.id for split in ("test_near", "test_far") for task in found.split(split))[:number]
    settings = yaml.safe_load(TASKS.read_text())
    settings["root"] = str((TASKS.parent / settings["root"]).resolve())
    splits = {split: [task.id for task in found.split(split) if task.id in ids] for split in ("test_near", "test_far")}
    settings["splits"] = str(folder / "splits.json")
    (folder / "splits.json").write_text(json.dumps({split: tasks for split, tasks in splits.items() if tasks}))
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path, ids


def timed(changes: Mapping[str, Any]) -> tuple[Report, float]:
    """The report of the test evaluation with other settings, and its minutes."""
    settings = yaml.safe_load(CONFIG.read_text()) | changes
    begun = time.perf_counter()
    with console.progress() as update:
        report = evaluate_generators(EvaluateConfig.model_validate(settings), update)
    return report, (time.perf_counter() - begun) / 60


def compared(number: int) -> dict[str, Any]:
    """Minutes of both ways on some tasks, and whether they give the same scores."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tasks, ids = some_tasks(number, folder)
        splits = sorted(json.loads((folder / "splits.json").read_text()))
        common = {"tasks": tasks, "splits": splits, "unseen_families": [s for s in splits if s == "test_far"]}
        cores = available_cores()
        one, alone = timed(common | {"out": folder / "one", "workers": 1})
        many, shared = timed(common | {"out": folder / "many", "workers": cores})
    return {
        "tasks": ids,
        "cores": cores,
        "one process, minutes": round(alone, 2),
        "a process a core, minutes": round(shared, 2),
        "ratio": round(alone / shared, 2),
        "largest difference of a score": round(largest_difference(one, many), 6),
    }


def largest_difference(one: Report, other: Report) -> float:
    """Between scores of the same cells."""
    cells = {cell.key: cell for cell in other.cells}
    return max(
        abs(value - getattr(cells[cell.key].short, name))
        for cell in one.cells
        for name, value in cell.short.model_dump().items()
        if isinstance(value, float)
    )


def whole() -> dict[str, Any]:
    """Minutes of the evaluation of all test tasks."""
    with tempfile.TemporaryDirectory() as folder:
        _, minutes = timed({"out": Path(folder) / "all"})
    return {"minutes": round(minutes, 1), "before": BEFORE, "wanted": WANTED, "cores": available_cores()}


def kept() -> dict[str, Any]:
    """Figures of earlier runs."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    if not options.show:
        found = {"all test tasks": whole()} if options.whole else {"some tasks": compared(options.tasks)}
        atomic_write(RESULTS, json.dumps(kept() | found, indent=1) + "\n")
    print(json.dumps(kept(), indent=1))


if __name__ == "__main__":
    main()
